"""``fvae export``: what is needed to use a run, without what resumes or describes its training."""

from fvae.cli.parser import Parser
from fvae.files import need_new_folder
from fvae.runs import load, save


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_out("the new folder")
    args = parser.parse(argv)
    model, out = load(args["run"]), args["out"]
    need_new_folder(out)
    save(model, out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))} ({size:.1f} MB)")
