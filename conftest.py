"""What every test in this repository may use."""

pytest_plugins = ["tests.plugins.no_skips", "tests.support.real_data"]
