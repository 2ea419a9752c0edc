"""A real DNS server on loopback, answering from a table over UDP and TCP."""

import socket
import socketserver
import struct
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Zone = dict[tuple[str, str], list[str]]


class DnsServer:
    """Answers from a table; names of the table without the asked type are NODATA, others NXDOMAIN."""

    def __init__(self, zone: Zone, *, special: dict[str, dns.rcode.Rcode] | None = None) -> None:
        self.zone, self.special = zone, special or {}
        self.asked: list[tuple[str, str]] = []
        self.silent = False
        self.truncate = False
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                (length,) = struct.unpack("!H", self.request.recv(2))
                answer = outer.answer(self.request.recv(length), tcp=True)
                if answer:
                    self.request.sendall(struct.pack("!H", len(answer)) + answer)

        self.tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.tcp.daemon_threads = True
        self.port = self.tcp.server_address[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Free for TCP is nearly always free for UDP too; a long-lived client might sit on it.
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.udp.bind(("127.0.0.1", self.port))
        self.threads = [
            threading.Thread(target=self.serve),
            threading.Thread(target=self.tcp.serve_forever, args=(0.05,)),
        ]
        for thread in self.threads:
            thread.start()

    def serve(self) -> None:
        while True:
            data, peer = self.udp.recvfrom(4096)
            if data == b"stop":
                return
            answer = self.answer(data, tcp=False)
            if answer:
                self.udp.sendto(answer, peer)

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"stop", ("127.0.0.1", self.port))
        self.tcp.shutdown()
        for thread in self.threads:
            thread.join(5)
        self.tcp.server_close()
        self.udp.close()

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked.append((name, kind))
        if self.silent:
            return None
        answer = dns.message.make_response(query)
        if name in self.special:
            answer.set_rcode(self.special[name])
        elif self.truncate and not tcp:
            answer.flags |= dns.flags.TC
        elif (name, kind) in self.zone:
            answer.answer.append(dns.rrset.from_text(name + ".", 60, "IN", kind, *self.zone[name, kind]))
        elif (name, "CNAME") in self.zone:
            answer.answer.append(
                dns.rrset.from_text(name + ".", 60, "IN", "CNAME", *self.zone[name, "CNAME"])
            )
        elif name not in {known for known, _ in self.zone}:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()
