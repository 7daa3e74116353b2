"""An engine on LMDB, to see what a store that was written by hand is worth.

It keeps the contract of `asgi_ipc.engines.base` (numbers in comments are its clauses), but for
what LMDB gives no means to know: that an owner has died (capability ``owners``). LMDB commits a
change whole or not at all, and its lock is a robust mutex, so a killed process harms nobody.
Wake-ups are FIFOs, as LMDB has none. It is a peer of the benchmarks and no engine to deploy: its
map is reserved no byte at a time, so a full ``/dev/shm`` ends a process with SIGBUS.
"""
