"""The serving process: answers local apps on inherited sockets."""
