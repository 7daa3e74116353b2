"""The command line: one module or package for each command of ``python -m asgi_ipc``.

Begin with `check`, which looks for damage in a store; `doctor` tries what the machine offers.
`arguments` has the options that commands share, and `asgi_ipc.__main__` the list of commands.

Commands may import from every folder, and look inside `asgi_ipc.engines.shm`. Only
`asgi_ipc.__main__` imports from here, and `asgi_ipc.conformance`, which parses options alike.
"""
