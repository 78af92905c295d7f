"""`kit.chat`: a chat in a cell. A conversation, who answers it, a session that streams, and two front ends over it."""
