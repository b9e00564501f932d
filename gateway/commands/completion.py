"""`snowgate completion`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for your shell.

    \b
    Examples:
      eval "$(snowgate completion bash)"       in ~/.bashrc
      eval "$(snowgate completion zsh)"        in ~/.zshrc
      snowgate completion fish | source        in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows the shells that are offered"
    click.echo(found(ctx.find_root().command, {}, "snowgate", "_SNOWGATE_COMPLETE").source())
