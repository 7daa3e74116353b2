"""The conformance suite: what every engine must do, and both layers on top of it.

    python -m asgi_ipc.conformance --engine NAME-OR-DOTTED-PATH -n auto

Without ``--engine`` it tests all engines that are registered here; ``--engine-option KEY=VALUE``
goes to the engine; ``--clause E4`` runs the tests of that clause alone; a module's name in front
of the options, such as ``test_segment``, runs that module alone. All else is pytest's.

Each test names by ``@pytest.mark.clause`` what it holds an engine to: E1 to E26 stand in
`asgi_ipc.engines.base`, G1 to G7 in `asgi_ipc.engines.shm.segment`, and the layers' S, A and O
in `asgi_ipc.conformance.clauses`. ``test_queues`` is the place to start reading.
"""
