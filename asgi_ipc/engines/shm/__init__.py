"""The shared-memory store: one engine over any `Segment` that a UNIX offers.

An engine is a file of its own: `posix`, `sysv`, `mmap`. A port fills in `segment_example` after
the contract in `segment`, the one public module here. `cli`, the conformance suite and the tests
may look inside; nothing else imports from this folder. Imports run down this list:

- `engine`, the Engine contract: it has a `session` (this process in the store) and its `upkeep`,
  makes its calls by `operation`, and says why it refuses by `refusals`; `inspection` lists what is
  in a store, a `listing` that goes on from hold to hold;
- `opening` and `store`: a store is found, checked and made; closed and removed;
- `queues/` and `tables`: where messages and members lie, in memory that `heap/` manages;
- `locked_segment`: a segment is entered alone, and what a killed process left there is finished;
- `processes`: which are alive; `lock_file`: what it says, and the locks on it, which are `locks/`;
- `store_memory`: whose memory it is; `critical_section`: threads of a process;
- `bells`: wake-ups; `spread`: many of them at once;
- `directory`, `files`, `file_systems`, `location`, `machine`: what the system is asked for.

Begin with `heap/layout.py`, the bytes of a store, and `engine.py`. `check` tells whether a store is
sound; `options` are the user's.
"""
