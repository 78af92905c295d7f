"""One module a step. A step that was released never changes; a new one is added and `REVISION` in `tables` raised."""
