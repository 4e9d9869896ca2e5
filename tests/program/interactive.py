"""Runs the interactive mode on a terminal: interrupts two answers, one whose output the terminal holds back, the prompt, and ends the input."""
import os
import pty
import select
import sys
import time

LIMIT = 60  # seconds for each step


def read_until(terminal, wanted, least=0):
    """What the program writes until `wanted` appears, in at least `least` bytes."""
    seen, end = b"", time.time() + LIMIT
    while wanted not in seen or len(seen) < least:
        ready, _, _ = select.select([terminal], [], [], end - time.time())
        if not ready:
            sys.exit(f"no {wanted!r} in {LIMIT} seconds, but {seen[-300:]!r}")
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            sys.exit(f"the program ended (status {os.waitpid(process, 0)[1]}) before {wanted!r}, after {seen[-300:]!r}")
    return seen


def read_until_quiet(terminal):
    while select.select([terminal], [], [], 0.5)[0]:
        os.read(terminal, 4096)


process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], sys.argv[1:])
read_until(terminal, b"> ")
for prompt in b"once", b"twice":
    os.write(terminal, prompt + b"\n")
    read_until(terminal, prompt, least=len(prompt) + 20)  # the answer is growing
    os.write(terminal, b"\x03")
    read_until(terminal, b"\n> ")
os.write(terminal, b"thrice\n")
read_until(terminal, b"thrice", least=30)
os.write(terminal, b"\x13")  # Ctrl-S: the program waits in a write, which Ctrl-C then interrupts
read_until_quiet(terminal)
os.write(terminal, b"\x03")
read_until(terminal, b"\n> ")
os.write(terminal, b"half a line\x03")
read_until(terminal, b"\n> ")
os.write(terminal, b"\x04")
_, status = os.waitpid(process, 0)
if status != 0:
    sys.exit(f"status {status}")
