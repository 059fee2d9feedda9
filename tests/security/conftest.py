"""The same site as the API's tests have."""

from tests.integration.api.conftest import live, site

__all__ = ["live", "site"]
