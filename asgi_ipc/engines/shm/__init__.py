"""The shared-memory store: one engine over any `Segment` that a UNIX offers.

An engine is a file of its own: `posix`, `sysv`, `mmap`. A port fills in `segment_example` after
the contract in `segment`, the one public module here; `cli`, the conformance suite and the tests
may look inside, and nothing else imports from this folder. Imports run down this list:

- `engine`, the Engine contract; it has a `session` (this process in the store) and its `upkeep`,
  and makes its calls by `operation`;
- `opening` and `store`: a store is found, checked, made; closed and removed;
- `queues/` and `tables`: where messages and members lie, in the memory that `heap/` manages;
- `locked_segment` (entering a segment alone, recovering what a killed process left), `lock_file`,
  `processes` (which are alive), `bells` (wake-ups), `store_memory` (whose memory it is);
- `locks/`, `critical_section`: keeping out other processes, and other threads;
- `directory`, `files`, `options`, `location`, `machine`: what the system is asked for.

Begin with `heap/layout.py`, the bytes of a store, and `engine.py`. `check` proves a store whole.
"""
