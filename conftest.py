"""What every test in this repository may use."""

pytest_plugins = [
    "tests.plugins.no_skips",
    "tests.plugins.orthanc",
    "tests.plugins.postgres",
    "tests.support.real_data",
]
