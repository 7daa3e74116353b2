"""Policy: how many messages a channel holds, how long they live, and what a broadcast sends.

Begin with `groups`, which plans a broadcast; `capacity` and `expiry` stand alone. Names and numbers
go in and come out: no module here reads or writes a store, and the caller passes the time in.

`layers` and `delivery` import from here; modules here import only `encoding` and `exceptions`.
"""
