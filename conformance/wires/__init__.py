"""The conformance suite for wires: the clauses W1 to W14 of `asgi_ipc.relay.wire`.

    python -m asgi_ipc.conformance --wire redis                       # starts a redis-server
    python -m asgi_ipc.conformance --wire mine --wire-url mine://host:port

Without ``--wire`` it tests all wires of asgi_ipc, each with a server that it starts, where one is
installed. Between wire and server stands a proxy (`proxy`) that plays what networks do, so any
server on a TCP port will do; tests that restart or stop the server itself need one that the suite
has started. Start reading at ``test_wire_topics``.
"""
