"""What a channel layer decides without an engine: capacity, expiry, and the records of a broadcast.

Names and numbers go in and come out; no module here reads or writes a store.
"""
