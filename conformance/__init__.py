"""The conformance suite: what every engine must do, and both layers on top of it.

    pytest --pyargs asgi_ipc.conformance --engine NAME-OR-DOTTED-PATH -n auto

``--engine-option KEY=VALUE`` goes to the engine; ``--clause E4`` runs only the tests of
that clause; without ``--engine`` all engines that are registered here are tested.

Each test names by ``@pytest.mark.clause`` what it holds an engine to: E1 to E25 stand in
`asgi_ipc.engines.base`, G1 to G6 in `asgi_ipc.store.segment`, and the layers' S, A and O
in `asgi_ipc.conformance.clauses`. ``test_queues`` is the place to start reading.
"""
