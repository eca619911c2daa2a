from surg.cli.main import run

run()
