"""Encoding: names, messages and records as bytes, and back.

Begin with `names`, which checks the names of channels and groups; `codec` encodes messages, and
`envelope` addresses one to local channels of a process.

`policy`, `delivery` and `layers` import from here; modules here import only `engines.base` and
`exceptions`.
"""
