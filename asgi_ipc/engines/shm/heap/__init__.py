"""Memory of one segment: records that can be moved, and changes that are whole or nothing.

Begin with `layout`, the byte format of the segments. `journal` makes a change whole, `log` writes
records one after the other, `heap` makes room by growing and cleaning, `hash_table` finds records
by name, `incremental_sweep` goes through all of them bit by bit. Everything but `layout` needs the
segment's lock. Imports nothing of `shm`; what lies above it imports any of these.
"""
