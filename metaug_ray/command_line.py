"""What the jobs' command lines have in common."""

from pydantic_settings import SettingsConfigDict


def command_line(program: str) -> SettingsConfigDict:
    """Options --part.field-name, and environment variables METAUG_PART__FIELD_NAME, for all fields of a model."""
    return SettingsConfigDict(
        env_prefix="METAUG_",
        env_nested_delimiter="__",
        cli_prog_name=program,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )
