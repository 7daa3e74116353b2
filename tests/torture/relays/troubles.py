"""What goes wrong: each blow is dealt once, and is over when it returns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from asgi_ipc.conformance.wires.servers import Redis

from .places import MACHINES
from .site import Site, random_machine


class Strength(NamedTuple):
    """How long the troubles last, in seconds; an outage is longer than every timeout."""

    outage: float
    kills_apart: float
    #: The longest pause after an outage.
    peace: float
    #: How often connections are ended.
    ends: int

    def rest(self, dice: random.Random) -> float:
        """Draw the pause after an outage."""
        return dice.uniform(0.2, 1.0) * self.peace


Blow = Callable[[Site, random.Random, Strength], None]


def nothing(site: Site, dice: random.Random, strength: Strength) -> None:
    """Let all go well."""
    site.pause(1.0)


def kill_relay(site: Site, dice: random.Random, strength: Strength) -> None:
    """Kill a relay, or all at once."""
    some = range(MACHINES) if dice.random() < 0.2 else [random_machine(dice)]
    for machine in some:
        site.kill_relay(machine)
    site.pause(strength.kills_apart)


def end_relay(site: Site, dice: random.Random, strength: Strength) -> None:
    """Have a relay end as at a deployment."""
    site.end_relay(random_machine(dice))
    site.pause(strength.kills_apart)


def restart_server(site: Site, dice: random.Random, strength: Strength) -> None:
    """Kill the server, or have it end cleanly, and start it again."""
    if dice.random() < 0.5:
        site.server.stop()
    else:
        site.server.terminate()
    site.pause(dice.uniform(0, 1.0))
    site.server.start()
    site.pause(strength.rest(dice))


def cut_network(site: Site, dice: random.Random, strength: Strength) -> None:
    """Swallow what passes between the server and a machine, or all; both ends stay half-open.

    Then the network passes on what it kept, late, or the connections turn out to be broken.
    """
    networks = list(site.networks) if dice.random() < 0.4 else [dice.choice(site.networks)]
    keeps = dice.random() < 0.6
    for network in networks:
        network.order("freeze" if keeps else "swallow")
    site.pause(strength.outage)
    late = dice.choice((0.0, 0.3, dice.uniform(0.0, 3.0)))
    for network in networks:
        network.order(*(("thaw", str(late)) if keeps else ("cut_and_heal",)))
    site.pause(strength.rest(dice))


def kill_in_cut(site: Site, dice: random.Random, strength: Strength) -> None:
    """Kill a relay whose network is cut: what it published passes after what the next one did."""
    machine = random_machine(dice)
    network = site.networks[machine]
    network.order("freeze")
    site.pause(0.3)
    site.kill_relay(machine)
    site.pause(strength.outage / 2)
    network.order("thaw", str(dice.uniform(0.0, 1.5)))
    site.pause(strength.rest(dice))


def take_down(site: Site, dice: random.Random, strength: Strength) -> None:
    """Leave a machine without a relay for longer, and kill that of another meanwhile."""
    machine = random_machine(dice)
    roles = site.take_down(machine)
    site.pause(2 * strength.outage)
    site.kill_relay((machine + 1) % MACHINES)
    site.pause(0.3)
    site.bring_up(machine, roles)
    site.pause(2.0 + strength.rest(dice))


def stop_server(site: Site, dice: random.Random, strength: Strength) -> None:
    """Stop the server for longer than every timeout."""
    site.server.freeze()
    site.pause(strength.outage)
    site.server.thaw()
    site.pause(strength.rest(dice))


def stop_relay(site: Site, dice: random.Random, strength: Strength) -> None:
    """Stop a relay, for a moment or for longer than every timeout."""
    site.stop_relay(random_machine(dice))
    site.pause(dice.choice((0.2, strength.outage)))
    site.cont_relays()
    site.pause(strength.rest(dice))


def end_connections(site: Site, dice: random.Random, strength: Strength) -> None:
    """End all connections ten times a second."""
    for _ in range(strength.ends):
        if isinstance(site.server, Redis):
            site.server.kill_clients()
        else:
            for network in site.networks:
                network.order("cut")
        site.pause(0.1)
    site.pause(strength.rest(dice))


BLOWS: dict[str, Blow] = {
    "nothing": nothing,
    "kill": kill_relay,
    "end": end_relay,
    "restart": restart_server,
    "cut": cut_network,
    "kill-in-cut": kill_in_cut,
    "down": take_down,
    "stop-server": stop_server,
    "stop-relay": stop_relay,
    "connections": end_connections,
}


def deal(site: Site, names: list[str], seconds: float, strength: Strength, seed: int) -> int:
    """Deal blows of these kinds for some time; return how many."""
    dice, until, dealt = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < until and not site.faults:
        # Each kind at least once, if there is time for it.
        BLOWS[names[dealt] if dealt < len(names) else dice.choice(names)](site, dice, strength)
        dealt += 1
    return dealt
