"""Build the web site into build/site from the notebooks' stored outputs: `make site`. It runs none.

The pages are gathered in one folder, with links to files that have no page led to the repository,
and given to Sphinx. What runs in the reader's browser is fetched by npm at the versions of
docs/package-lock.json and becomes part of the site: its pages load nothing from elsewhere.
"""

import ast
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["CONTRIBUTING.md", "data/README.md", "notebooks/*.ipynb", "notebooks/appendix/*.ipynb",
         "results/*.md", "results/*/README.md", "tools/README.md"]
PICTURES = ["results/*.png"]
SCENES = ["test_023", "test_014", "test_032", "test_055", "test_061", "test_078"]
# From the packages of npm into _static/.
SCRIPTS = {"onnxruntime-web/dist/ort.wasm.min.mjs": "demo",
           "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": "demo",
           "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "demo",
           "mathjax/es5/tex-svg.js": "."}
IDEAS = ["labels", "pipeline", "layers", "models", "training", "metrics", "inference"]


def main() -> int:
    """Gather the pages, build the site with warnings as errors, and return Sphinx's exit code."""
    source, site = ROOT / "build" / "site-source", ROOT / "build" / "site"
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)
    gather(source)
    add_scripts(source / "_static")
    (source / "api.md").write_text(api_page(), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c",
               ROOT / "docs", source, site]
    code = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONUTF8": "1"}).returncode
    if code == 0:
        folder = site.relative_to(ROOT)
        print(f"The site is in {folder}: python3 -m http.server --directory {folder}")
    return code


def gather(source: Path) -> None:
    """Copy pages and pictures to `source`, placed as in the repository, docs/ being the root."""
    pages = {path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)}
    pictures = {path.relative_to(ROOT).as_posix() for pattern in PICTURES
                for path in ROOT.glob(pattern)}
    for name in pages | pictures:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in pictures:
            shutil.copyfile(ROOT / name, target)
        else:
            text = (ROOT / name).read_text(encoding="utf-8")
            target.write_text(lead_links(text, name, pages | pictures), encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copyfile(path, source / path.name)


def add_scripts(static: Path) -> None:
    """Fill `static`: style sheet, the page that labels photos, its scenes, what npm fetches."""
    docs = ROOT / "docs"
    shutil.copytree(docs / "_static", static)
    shutil.copytree(docs / "demo", static / "demo",
                    ignore=shutil.ignore_patterns("*.py", "fcn.json"))
    meadow = ROOT / "data" / "meadow"
    for name in SCENES:
        shutil.copyfile(meadow / "JPEGImages" / f"{name}.jpg", static / "demo" / f"{name}.jpg")
        shutil.copyfile(meadow / "SegmentationClass" / f"{name}.png",
                        static / "demo" / f"{name}.png")
    card = json.loads((docs / "demo" / "fcn.json").read_text(encoding="utf-8"))
    (static / "demo" / "fcn.json").write_text(json.dumps(card | {"scenes": SCENES}),
                                              encoding="utf-8")
    modules = docs / "node_modules"
    if not all((modules / name).is_file() for name in SCRIPTS):
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is not found: install Node.js 20 or newer.")
        subprocess.run([npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--silent"],
                       cwd=docs, check=True)
    for name, folder in SCRIPTS.items():
        shutil.copyfile(modules / name, static / folder / Path(name).name)


def lead_links(text: str, page: str, kept: set[str]) -> str:
    """Lead relative links to files without a page to the repository; README.md is the start."""
    # badges are pictures from other hosts
    text = re.sub(r"\[!\[([^\]]+)\]\(https?:[^)]+\)\]", r"[\1]", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]

    def lead(match: re.Match) -> str:
        link, hash_sign, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        if target == "README.md":
            return f"]({posixpath.relpath('index.md', posixpath.dirname(page) or '.')})"
        if target in kept or not (ROOT / target).exists():
            return match[0]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"]({repository}/{kind}/main/{target}{hash_sign}{anchor})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", lead, text)


def api_page() -> str:
    """Return the page of the functions in `utils`: the seven files that hold the ideas first."""
    modules = sorted(path.stem for path in (ROOT / "utils").glob("[a-z]*.py"))
    lines = ["# The code that the notebooks share", "",
             "`utils` is small. Read its modules in this order.", ""]
    for name in IDEAS + [name for name in modules if name not in IDEAS]:
        text = (ROOT / "utils" / f"{name}.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), name
        lines += [f"## {name}", "",
                  f"```{{eval-rst}}\n.. automodule:: utils.{name}\n   :members:\n```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
