"""Queues of messages in the heap of the channels segment.

Begin with `queues`: find, push, pop, restore. A message lies in a ring (`rings`, whose memory is
`ring_extents`), or in a list of records (`linked_list`) if the queue is seldom used or its ring is
full. `armed_bells` are the bells armed on a queue, `counters` what is counted with each change,
`sweeper` drops what expired or lost its owner, `statistics` tells. Everything needs the segment's
lock. `session` has the `Queues`; `opening` passes `rings.recount` to the locked segment.
"""
