"""The client's side of WebSocket (RFC 6455), as much of it as websocket.py needs."""

import base64
import hashlib
import http.client
import os
import socket
import ssl
import struct
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class Closed(Exception):
    """The server has closed the connection, for the reason of this `code`."""

    def __init__(self, code, reason):
        super().__init__(f"{code} {reason}".strip())
        self.code = code


def connect(url, protocol):
    """Opens a connection (RFC 6455 section 4.1). 60 s of silence, pings included, end it with an OSError."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    sock = socket.create_connection((parts.hostname, parts.port or (443 if secure else 80)), timeout=60)
    if secure:
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {protocol}",
    ]
    sock.sendall("\r\n".join(lines + ["", ""]).encode())

    stream = sock.makefile("rb")
    status = stream.readline().decode()
    headers = http.client.parse_headers(stream)
    accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    if " 101 " not in status or headers["Sec-WebSocket-Accept"] != base64.b64encode(accept).decode():
        raise ConnectionError(f"no WebSocket: {status.strip()}")
    return sock, stream


def send(connection, text):
    """Sends a message."""
    send_frame(connection, TEXT, text.encode())


def close(connection):
    """Says goodbye, and hangs up."""
    send_frame(connection, CLOSE, struct.pack("!H", 1000))
    connection[0].close()


def messages(connection):
    """Yields message after message, and answers pings meanwhile. Raises Closed, or an OSError, in the end."""
    message = b""
    while True:
        final, opcode, payload = read_frame(connection)
        if opcode == PING:
            send_frame(connection, PONG, payload)
        elif opcode == CLOSE:
            send_frame(connection, CLOSE, payload[:2])
            raise Closed(struct.unpack("!H", payload[:2])[0] if payload else 1005, payload[2:].decode())
        elif opcode != PONG:
            message += payload
            if final:
                yield message.decode()
                message = b""


def send_frame(connection, opcode, payload):
    """Sends a frame in one piece, masked as a client must (RFC 6455 section 5.2)."""
    size, mask = len(payload), os.urandom(4)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    connection[0].sendall(head + mask + masked)


def read_frame(connection):
    """Whether the frame is its message's last, its opcode and its payload."""
    first, second = read_exactly(connection, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", read_exactly(connection, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", read_exactly(connection, 8))
    return bool(first & 0x80), first & 0x0F, read_exactly(connection, size)


def read_exactly(connection, size):
    data = connection[1].read(size)
    if len(data) < size:
        raise ConnectionError("the connection was cut")
    return data
