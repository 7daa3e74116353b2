"""The command line: ``asgi-ipc COMMAND``, or ``python -m asgi_ipc COMMAND``.

Begin with `main`, the frame, which lists the commands; `commands` has a module for each. `choice`
is the store that a command is about, and `arguments` are what commands share to name it. `finding`
finds it by its lock file (`lock_files`), `joining` joins it, `listing` reads what can be read
without its locks, `orphans` are memory and locks of no store, and `sighting` tells the checks of
Django projects what is there.

`inspecting`, `messages` and `pending` tell of what is in a store, `reach` tells which machines a
command reaches, `relay_differences` compares the relay of a site with its settings, `output`
prints, and `failures` end a command. `precautions` come before something is destroyed, `check`
looks for damage in a `snapshot`, and `doctor` tries what the machine offers. Commands that run on
look in the `background`, and `limits` bound the time of others; an `attempt` has a process of its
own. `top` has the live screen, `serving` a page of metrics.

Commands may import from every folder, and look inside `asgi_ipc.engines.shm`. Only
`asgi_ipc.__main__` and `asgi_ipc.django` import from here, and `asgi_ipc.conformance`, which parses
options alike.
"""
