"""Uses the pages of a running `perceiver serve` as a visitor would, in headless Chromium, and keeps screenshots.

    pages.py ADDRESS SCREENSHOT_FOLDER [PICTURE.png PIECE.mid SOUND.wav [REPORT.html]]

Pages of models that are missing are not visited. Of a server with --runs, a run called live must be training."""
import json
import os
import sys
import time
import urllib.request

from webdriver import Browser

address, folder = sys.argv[1].rstrip("/"), sys.argv[2]
picture, piece, sound = (os.path.abspath(path) for path in (sys.argv[3:6] if len(sys.argv) > 5 else ("", "", "")))
models = {model["modality"]: model["id"] for model in json.load(urllib.request.urlopen(address + "/v1/models"))["data"]}
os.makedirs(folder, exist_ok=True)
browser = Browser()
done = []


def visit(modality):
    browser.size(1180, 980)
    browser.open("about:blank")
    browser.open(f"{address}/#{models[modality]}")
    browser.wait("return document.querySelector('#start')", f"the page of {modality}")


def finish(name, narrow=True):
    errors = browser.errors()
    assert not errors, f"{name}: the console says {errors}"
    browser.screenshot(f"{folder}/{name}.png")
    if narrow:
        browser.size(390, 844)
        time.sleep(0.3)
        wide = browser.run("return document.documentElement.scrollWidth > innerWidth")
        browser.screenshot(f"{folder}/{name}-narrow.png")
        assert not wide, f"{name}: a narrow screen scrolls sideways"
    done.append(name)


def ended(what, seconds=120):
    browser.wait("return document.querySelector('#stop').disabled && !document.querySelector('.error')", what, seconds)


def text():
    # A model that knows nothing may end at any token, and in the middle of a character, for which a sign without alternatives is shown.
    choosable = "[...document.querySelectorAll('.token')].slice(0, 31).filter((token) => !token.ariaLabel.endsWith(': 100 %'))"
    for _ in range(20):
        visit("text")
        browser.type("#prompt", "And the king said ")
        browser.click("#start")
        ended("the end of the text")
        if browser.run(f"return {choosable}.length > 3"):
            break
    browser.run(f"{choosable}.pop().focus()")
    browser.wait("return document.querySelectorAll('.choices button').length > 1", "alternatives")
    finish("text", narrow=False)
    # By keyboard: down into the alternatives, Enter takes one and goes on from there.
    before = browser.run("return document.querySelector('#story').textContent")
    browser.keys("\ue015\ue015\ue007")
    browser.wait("return document.querySelectorAll('.branches button').length == 2", "a branch")
    ended("the end of the branch")
    browser.wait("return document.querySelector('.token.taken')", "the alternative taken")
    assert browser.run("return document.querySelector('#story').textContent") != before
    finish("text-branch")


def stopping():
    """A long text comes bit by bit, and its slot is free soon after it is stopped."""
    visit("text")
    browser.run("window.times = 0; new MutationObserver(() => ++window.times).observe(document.querySelector('#story'), {childList: true})")
    browser.run("const e = document.querySelector('#setting-max_tokens'); e.value = 2000; e.dispatchEvent(new Event('input'))")
    browser.click("#start")
    for _ in range(40):  # a model that knows nothing may end at any token
        browser.wait("return window.times > 2 || document.querySelector('#stop').disabled", "a growing text")
        if browser.run("return window.times > 2"):
            break
        browser.run("window.times = 0; document.querySelector('#start').click()")
    else:
        raise AssertionError("texts come all at once")
    browser.run("document.querySelector('#stop').click()")
    browser.wait("return document.querySelector('[role=status].quiet') && document.querySelector('#stop').disabled", "the stop")
    end = time.time() + 3
    while time.time() < end:
        if all(model["active"] == 0 for model in json.load(urllib.request.urlopen(address + "/v1/models"))["data"]):
            break
    else:
        raise AssertionError("a stopped text keeps its slot")
    done.append("stopping")


def image():
    visit("image")
    browser.type("#file", picture)
    browser.wait("return document.querySelector('.row [role=status]').textContent.includes('paint')", "the picture")
    browser.click("#canvas")
    browser.keys("\ue012  ")
    browser.click("#start")
    browser.wait("return document.querySelectorAll('#gallery figure').length == 4", "places for pictures")
    ended("four pictures")
    browser.wait("return [...document.querySelectorAll('#gallery button')].every((button) => !button.disabled)", "whole pictures")
    finish("image")


def music():
    visit("music")
    browser.type("#file", piece)
    ended("the end of the piece")
    browser.wait("return !document.querySelector('#download').disabled", "a file to download")
    finish("music", narrow=False)
    browser.run("""window.saved = null; const make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.slice(0, 4).text().then((text) => { window.saved = text; }); return make.call(URL, blob); };
        document.querySelector('#download').click()""")
    assert browser.wait("return window.saved", "the downloaded file") == "MThd"
    browser.keys("adg")  # a chord on the computer's keys
    browser.wait("return document.querySelector('#download').disabled", "a new piece")
    browser.click("#start")
    ended("the end of the piece that was played")
    browser.wait("return !document.querySelector('#download').disabled", "a file to download")
    finish("music-played")


def audio():
    visit("audio")
    browser.type("#file", sound)
    browser.wait("return document.querySelector('.row [role=status]').textContent.includes('seconds')", "the sound")
    browser.run("const e = document.querySelector('#setting-max_tokens'); e.value = 500; e.dispatchEvent(new Event('input'))")
    browser.click("#start")
    ended("the end of the sound")
    browser.wait("return !document.querySelector('#download').disabled", "a file to download")
    finish("audio")


def runs():
    """The curves of a training grow while one looks; other runs join them by mouse and keyboard."""
    browser.size(1180, 980)
    browser.open(f"{address}/runs")
    browser.wait("return [...document.querySelectorAll('#all-runs tr')].some((row) => row.textContent.includes('live') && row.querySelector('.running'))", "the run that goes on")
    points = "const path = document.querySelector('#plots .curve'); return path ? path.getAttribute('d').split('L').length : 0"
    first = browser.wait(points, "the first curve")
    browser.wait(points.replace("return path", f"return path && path.getAttribute('d').split('L').length > {first}"), "a new point of the curve")
    assert browser.run("return document.querySelectorAll('#runs tr').length") == 2, "only the run that goes on is drawn"
    step = "return Number(document.querySelector('#runs td.number').textContent.split('/')[0])"
    before = browser.run(step)
    browser.wait(f"{step} > {before}", "a further step in the table")
    browser.run("[...document.querySelectorAll('#all-runs input')].find((box) => !box.checked).focus()")
    browser.keys(" ")
    browser.wait("return document.querySelectorAll('#runs tr').length == 3", "the second run")
    assert browser.run("return document.activeElement.type") == "checkbox", "the focus stays"
    assert "#" in browser.run("return location.href"), "the choice is in the address"
    finish("runs")


def report():
    """A report opened from disk: curves, and a piece that can be played."""
    browser.open("file://" + os.path.abspath(sys.argv[6]))
    browser.wait("return document.querySelector('#plots .curve, #plots circle')", "the curves")
    browser.wait("const play = document.querySelector('.sample button'); return play && !play.disabled", "the piece")
    browser.click(".sample button")
    assert browser.run("return document.querySelector('.sample button').textContent") == "Stop"
    browser.click(".sample button")
    assert browser.run("return document.querySelector('.sample button').textContent") == "Play"
    finish("report")


try:
    if len(sys.argv) > 6:
        report()
    if json.load(urllib.request.urlopen(address + "/health"))["runs"]:
        runs()
    for modality, steps in (("text", (text, stopping)), ("image", (image,)), ("music", (music,)), ("audio", (audio,))):
        for step in steps if modality in models else ():
            step()
except Exception:
    browser.screenshot(f"{folder}/failed.png")
    print("the console:", browser.errors(), file=sys.stderr)
    raise
finally:
    browser.close()
print(f"{len(done)} passed, 0 failed: {', '.join(done)}")
