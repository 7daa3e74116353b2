"""The conformance suite: tests for every engine, both layers on top of it, and every wire.

    python -m asgi_ipc.conformance --engine NAME-OR-DOTTED-PATH -n auto

Without ``--engine`` it tests all engines that are registered here. ``--engine-option KEY=VALUE``
passes an option to the engine; ``--clause E4`` runs only the tests of that clause; a module's name
in front of the options, such as ``test_segment``, runs only that module. All other options are
pytest's.

The tests of wires of relays are in `wires`; see there.

Each test cites the clause that it checks by ``@pytest.mark.clause``: E1 to E34 stand in
`asgi_ipc.engines.base`, G1 to G8 in `asgi_ipc.engines.shm.segment`, W1 to W14 in
`asgi_ipc.relay.wire`, and the layers' S, A and O in `asgi_ipc.conformance.clauses`. Start
reading at ``test_queues``.
"""
