"""Everything that touches the outside: the engine, git, the forge. Classes are imported where they are used.

The names below are resolved on first use, because Prefect and docker-py cost most of a second and `check`, `plan` and
`--help` need neither. Prefect finds the blocks through the `prefect.collections` entry point, which imports this
package and asks for them.
"""
