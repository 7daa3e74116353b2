"""Encoding: names, messages and records as bytes, and back.

Begin with `names`, which checks the names of channels and groups; `codec` encodes messages once
`carried` has checked them, `extended` those with more types, and `serializers` chooses between
them and one of the user's; `envelope` addresses a message to local channels of a process.

`policy`, `delivery` and `layers` import from here; modules here import only `engines.base` and
`exceptions`.
"""
