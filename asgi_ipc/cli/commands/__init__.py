"""The commands of ``asgi-ipc``, one module each, with a `click.Command` named ``command``.

Begin with `ping`, the shortest. A module is imported when its command is called, or listed by
``--help``, so it imports late what takes long to import. `asgi_ipc.cli.main.COMMANDS` lists
the commands.
"""
