"""``make platforms``: asgi_ipc on whatever interpreters and systems this machine can play.

One module for each kind of platform: it finds or sets up the platforms of its kind, or says why
it can't. `trials` is what is tried on each. What is set up lies in a cache folder outside of the
checkout and is used again; nothing stays mounted and no process stays behind.
"""
