"""What was measured, for people: a table, a plot, and all figures as JSON."""

import json
from html import escape

WIDTH, HEIGHT, MARGIN_LEFT, MARGIN_RIGHT, MARGIN = 420, 260, 70, 24, 44
INK, LINE, GRID = "#444", "#2563eb", "#ddd"


class Latencies:
    """Counts by the upper edge of their bucket, in nanoseconds."""

    def __init__(self, buckets):
        self.buckets = sorted(buckets.items())
        self.total = sum(count for _, count in self.buckets)

    def quantile(self, fraction):
        """Seconds at or below which this fraction of all lie; 0 without any."""
        seen = 0
        for edge, count in self.buckets:
            seen += count
            if seen > self.total * fraction:
                return edge / 1e9
        return self.max()

    def max(self):
        return self.buckets[-1][0] / 1e9 if self.buckets else 0

    def course(self):
        """Pairs of seconds and how many had arrived by then, a hundred at most."""
        seen, points = 0, [(0, 0)]
        for edge, count in self.buckets:
            seen += count
            if seen - points[-1][1] >= self.total / 100 or seen == self.total:
                points.append((edge / 1e9, seen))
        return points


def write(result, folder):
    """Prints the table, and writes `million-CONNECTIONS.md`, `.svg` and `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"million-{result['connections']}"
    text = table(result)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.svg").write_text(plot(result))
    (folder / f"{name}.md").write_text(
        f"# {result['connections']:,} connections on one machine\n\n{text}\n![Plot]({name}.svg)\n"
    )
    print(f"\n{text}\nWritten: {folder}/{name}.md, .svg and .json")


def table(result):
    machine = result["machine"]
    memory = result["bytesPerConnection"]
    idle = result["idle"]
    rows = [
        ("connections", f"{result['connections']:,} in {result['servers']} servers, both ends on this machine"),
        (
            "opened",
            f"{result['open']['seconds']:.1f} s, {result['open']['perSecond']:,.0f} a second; "
            f"{result['open']['processorSeconds']['servers'] / result['connections'] * 1e6:.0f} µs of the servers' time each",
        ),
        ("memory of a connection in the server", f"{memory['server']:,.0f} bytes"),
        ("memory in the kernel, both ends", f"{memory['kernel']:,.0f} bytes"),
        ("memory of the machine, both ends, all told", f"{memory['all']:,.0f} bytes"),
        (
            f"idle, a ping to each every {result['pingIntervalSeconds']} s",
            f"{idle['pingsPerSecond']:,.0f} pings / s; {idle['processors']['servers']:.2f} processors for the servers, "
            f"{idle['processors']['clients']:.2f} for the clients, {idle['processors']['machine']:.2f} in all; "
            f"{idle['processors']['servers'] / max(1, idle['pingsPerSecond']) * 1e6:.1f} µs of the servers' time for each ping",
        ),
    ]
    for publication in result["publications"]:
        servers = publication["processorSeconds"]["servers"]
        rows.append(
            (
                f"published, {publication['what']}",
                f"p50 {publication['p50Seconds']:.2f} s, p99 {publication['p99Seconds']:.2f} s, the last after "
                f"{publication['maxSeconds']:.2f} s; {servers / result['connections'] * 1e6:.1f} µs of the servers' time "
                f"each; lost {publication['lost']}",
            )
        )
    reconnect = result["reconnect"]
    rows.append(
        (
            "dropped and back",
            f"{reconnect['connections']:,} in {reconnect['seconds']:.1f} s, {reconnect['perSecond']:,.0f} a second",
        )
    )
    totals = result["totals"]
    rows.append(
        ("over all", f"{totals['cut']} cut by the server, {totals['duplicates']} duplicates, {totals['strays']} strays")
    )
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"{machine['processors']} processors, {machine['memoryBytes'] / 2**30:.0f} GiB, kernel {machine['kernel']}, "
        f"{machine['day']}; publications of {result['payloadBytes']} bytes through one Redis.\n\n"
        f"| what | result |\n| --- | --- |\n{lines}"
    )


# MARK: Plot


def plot(result):
    """How connections opened, and how publications arrived."""
    arrivals = [(publication["what"], publication["course"]) for publication in result["publications"]]
    panels = [
        panel(0, "connections open", [("", result["open"]["course"])], result["connections"]),
        panel(WIDTH, "deliveries of a publication; dashed: of one to each topic", arrivals, result["connections"]),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{"".join(panels)}</svg>\n'
    )


def panel(left, title, courses, y_max):
    x_max = max(points[-1][0] for _, points in courses if points) or 1
    x0, x1 = left + MARGIN_LEFT, left + WIDTH - MARGIN_RIGHT
    y0, y1 = HEIGHT - MARGIN, MARGIN
    parts = [f'<text x="{x0}" y="{y1 - 16}" font-size="13">{escape(title)}</text>\n']
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = x0 + (x1 - x0) * share, y0 + (y1 - y0) * share
        parts.append(f'<line x1="{x0}" x2="{x1}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>\n')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{y_max * share:,.0f}</text>\n')
        parts.append(f'<text x="{x:.1f}" y="{y0 + 16}" text-anchor="middle">{x_max * share:.3g} s</text>\n')
    for what, points in courses:
        places = " ".join(f"{x0 + (x1 - x0) * x / x_max:.1f},{y0 + (y1 - y0) * y / y_max:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if "topics" in what else ""
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{LINE}" stroke-width="1.5"{dashes}>'
            f"<title>{escape(what)}</title></polyline>\n"
        )
    return "".join(parts)
