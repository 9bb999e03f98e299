"""C{python -m tbeast.lab}."""

from tbeast.lab.main import run

if __name__ == "__main__":
    raise SystemExit(run())
