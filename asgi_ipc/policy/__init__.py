"""What a channel layer decides, apart from any engine: capacity, expiry, and who gets a broadcast.

Names and numbers go in and come out; nothing here reads or writes a store.
"""
