"""Locks that come free when their holder dies.

Begin with `base`, the contract. `fcntl_locks` and `flock_locks` are locks of the kernel;
`semaphore_locks` has a `robust_mutex`, which recovers the lock of a dead holder, for each segment.
`mutex` is the lock of one segment, and how a process spins on it; `choice` tries which kind works
here. No lock knows what it locks: nothing of `heap` or `queues` is imported. `lock_file` imports
`choice`; all else imports `base` alone.
"""
