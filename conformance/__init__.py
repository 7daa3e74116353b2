"""The conformance suite: what every engine must do, and both layers on top of it.

    pytest --pyargs asgi_ipc.conformance --engine NAME-OR-DOTTED-PATH -n auto

Each test names by ``@pytest.mark.clause`` what it holds an engine to: E1 to E23 stand in
`asgi_ipc.engines.base`; S, A and O are the clauses of Channels' channel layer
specification, of its ASGI 1.x forerunner, and our own. ``test_queues`` is the place to
start reading.
"""
