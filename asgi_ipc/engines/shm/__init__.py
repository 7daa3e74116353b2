"""The shared-memory store: one engine over any `Segment` a UNIX can offer.

Read in this order: `layout` (the bytes), `journal` (how a change becomes whole or
nothing), `heap` (records that can be moved), `queues` and `tables` (what they are
made into), `locks` and `lock_file` (who is inside, who is alive), `bells` (wake-ups),
`locked_segment` (being inside, alone), `store` (opening and creating), `attachment` (joining and
leaving), `engine` (the Engine contract over all that), `segment` (what a port brings).
"""
