"""`kit.dashboard`: what a server does, live: plots, running requests with a cancel button, its log, its usage."""
