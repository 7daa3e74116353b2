"""The live screen of ``asgi-ipc top``, on textual (extra ``cli``).

Begin with `app`, the application. `look` reads a store for it, `panes` are the tables of channels,
groups and processes, `watching` is the screen of one store and `choosing` that of all stores;
`figures` are the lines above the tables. `look` and `figures` do without textual.
"""
