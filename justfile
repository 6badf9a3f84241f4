# https://just.systems: `just` lists the recipes

default:
    @just --list

# all tests that are not slow, in two workers
test *ARGS:
    pytest {{ARGS}}

# the tests of a minute or two
test-fast:
    pytest tests/test_config.py tests/core/test_nn.py tests/core/test_views.py tests/core/test_table.py

# lint, format, types, layers
lint:
    ruff check . && ruff format --check . && mypy && lint-imports

# the documentation, at http://127.0.0.1:8000
docs:
    mkdocs serve
