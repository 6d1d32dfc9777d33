"""Failures of the shared suite show the values compared, as in a test module."""

import pytest

pytest.register_assert_rewrite("strategy_suite")
