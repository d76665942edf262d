"""Headless Chromium, driven through its DevTools protocol: just enough to use a page as a person would."""

import asyncio
import base64
import collections
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from websockets.asyncio.client import connect

from support import Checks, Server, WAIT_SECONDS, expect

FLAGS = [
    "--headless", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--password-store=basic", "--lang=en-US",
]

# What a key is to the protocol: its virtual key code, and the text it types.
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "ArrowUp": (38, ""), "Home": (36, ""), "Backspace": (8, "")}
SHIFT = 8


class Browser:
    """One Chromium with a profile of its own; leaving the block ends it and everything that it started."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="starling-chromium-")
        self.ids = itertools.count(1)
        self.answers = {}
        self.tabs = {}

    async def __aenter__(self):
        # Chromium refuses to run its sandbox as root.
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.log = open(os.path.join(self.profile, "log"), "w+b")
        self.process = subprocess.Popen(
            ["chromium", *FLAGS, *as_root, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
        )
        try:
            self.socket = await connect(await self.address(), proxy=None, max_size=None, ping_interval=None)
        except BaseException:
            await self.__aexit__()
            raise
        self.reader = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_):
        if hasattr(self, "reader"):
            self.reader.cancel()
            await self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    async def address(self):
        """Where it listens: Chromium writes its port and path to a file once it does."""
        file = pathlib.Path(self.profile, "DevToolsActivePort")
        deadline = time.monotonic() + 30
        while not file.exists() or file.read_text().count("\n") < 1:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"chromium does not start:\n{self.log.read()[-4000:].decode(errors='replace')}")
            await asyncio.sleep(0.02)
        port, path = file.read_text().split()
        return f"ws://127.0.0.1:{port}{path}"

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                self.answers.pop(message["id"]).set_result(message)
            elif message.get("sessionId") in self.tabs:
                self.tabs[message["sessionId"]].happened(message["method"], message["params"])

    async def call(self, method, session=None, **parameters):
        id = next(self.ids)
        self.answers[id] = asyncio.get_running_loop().create_future()
        message = {"id": id, "method": method, "params": parameters}
        await self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        answer = await asyncio.wait_for(self.answers[id], WAIT_SECONDS)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def open(self, address, size=(1200, 780)):
        """A tab that shares nothing with the others: another person's browser."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self.tabs[session] = Tab(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Audits"):
            await tab.call(f"{domain}.enable")
        # Each tab believes that it is the one in front.
        await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.size(*size)
        await tab.go(address)
        return tab


class Tab:
    """A page, and what it complained about."""

    def __init__(self, browser, session, context):
        self.browser = browser
        self.session = session
        self.context = context
        self.complaints = []
        self.events = collections.Counter()

    def happened(self, method, parameters):
        self.events[method] += 1
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Runtime.consoleAPICalled":
            said = " ".join(str(value.get("value", value.get("description"))) for value in parameters["args"])
            self.complaints.append(f"console.{parameters['type']}: {said}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"{parameters['entry']['source']}: {parameters['entry']['text']}")
        elif method == "Audits.issueAdded":
            self.complaints.append(f"issue: {json.dumps(parameters['issue'])}")

    async def call(self, method, **parameters):
        return await self.browser.call(method, self.session, **parameters)

    async def close(self):
        await self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    async def go(self, address):
        """Loads a page, and waits until its scripts have run."""
        loaded = self.events["Page.loadEventFired"]
        await self.call("Page.navigate", url=address)
        await self.loaded(loaded)

    async def reload(self):
        loaded = self.events["Page.loadEventFired"]
        await self.call("Page.reload")
        await self.loaded(loaded)

    async def loaded(self, before):
        deadline = time.monotonic() + WAIT_SECONDS
        while self.events["Page.loadEventFired"] == before:
            expect(time.monotonic() < deadline, "the page does not load")
            await asyncio.sleep(0.01)

    async def size(self, width, height, phone=False):
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def scheme(self, scheme):
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']['exception']['description']}")
        return result["result"].get("value")

    async def until(self, expression, what=None, seconds=WAIT_SECONDS):
        """Waits until the expression is true in the page, and returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := await self.value(expression)):
            if time.monotonic() > deadline:
                shown = await self.value("document.body.innerText")
                expect(False, f"never came true: {what or expression}\nThe page shows:\n{shown}")
            await asyncio.sleep(0.02)
        return value

    async def text(self, selector):
        return await self.value(f"document.querySelector({json.dumps(selector)}).textContent")

    async def until_text(self, selector, text):
        """Waits until an element that is visible has that text, all of it, and nothing else."""
        await self.until(
            f"[...document.querySelectorAll({json.dumps(selector)})].some((made) => made.checkVisibility() "
            f"&& made.textContent === {json.dumps(text)})",
            f"{selector} says {text!r}",
        )

    async def click(self, selector):
        """Clicks in the middle of an element, if that is what is there."""
        point = await self.until(
            f"""(() => {{
                const made = document.querySelector({json.dumps(selector)});
                made?.scrollIntoView({{block: "nearest"}});
                const {{left, top, width, height}} = made?.getBoundingClientRect() ?? {{}};
                const [x, y] = [left + width / 2, top + height / 2];
                return made?.contains(document.elementFromPoint(x, y)) && [x, y];
            }})()""",
            f"{selector} can be clicked",
        )
        for type in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=type, x=point[0], y=point[1], button="left", clickCount=1)

    async def type(self, text):
        await self.call("Input.insertText", text=text)

    async def press(self, key, shift=False):
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": SHIFT if shift else 0}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def screenshot(self, path):
        # Two frames: what was changed last has been laid out and painted by then.
        await self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
        await self.value("Promise.allSettled(document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations === 1).map((one) => one.finished)).then(() => 0)")
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))


async def run_checks(what, checks, options, *more):
    """Starts the server, and runs checks: each gets a browser, the server, a directory for screenshots, and what else there is."""
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    server = Server(options.server)
    counted = Checks(server)
    try:
        await server.start()
        async with Browser() as browser:
            for name, function in checks:
                async with counted.check(f"{what}: {name}"):
                    await function(browser, server, output, *more)
    except Exception:
        return 1
    finally:
        await server.kill()
    print(f"{counted.count} checks of the {what} passed; screenshots are in {os.path.relpath(output)}")
    return 0
