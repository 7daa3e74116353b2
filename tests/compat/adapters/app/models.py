"""Models that the tests of djangochannelsrestframework use, and its archive lacks."""

from __future__ import annotations

from django.db import models


class TestModel(models.Model):
    """Something with a name."""

    __test__ = False
    name = models.CharField(max_length=255)


class TestModelWithCustomPK(models.Model):
    """Something whose name is its key."""

    __test__ = False
    name = models.CharField(max_length=255, primary_key=True)
    description = models.CharField(max_length=255, null=True)
