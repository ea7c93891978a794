"""A mail server for the tests: aiosmtpd behind a login, over TLS from the first byte where a certificate is named.

usage: smtp_receiver.py PORT FOLDER [CERTIFICATE KEY]

Takes the user `gapless` with the password `secret`. Each mail that it accepts is a line of JSON in FOLDER/mails, each login
a line in FOLDER/logins. While FOLDER/busy exists it answers 451 to mails; it does not know `nobody@`. Says `ready` once it listens.
"""

import json
import pathlib
import ssl
import sys
import time
from email import message_from_bytes, policy

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])


def note(name, line):
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"gapless", b"secret")
    note("logins", "good" if good else "bad")
    return AuthResult(success=good, handled=False)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 known"

    async def handle_DATA(self, server, session, envelope):
        if (folder / "busy").exists():
            return "451 4.3.0 busy"
        message = message_from_bytes(envelope.content, policy=policy.default)
        mail = {name.lower(): str(value) for name, value in message.items()}
        mail["to"], mail["text"] = envelope.rcpt_tos, message.get_content()
        note("mails", json.dumps(mail))
        return "250 2.0.0 taken"


tls = None
if len(sys.argv) > 3:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(sys.argv[3], sys.argv[4])
controller = Controller(
    Handler(),
    hostname="127.0.0.1",
    port=port,
    ssl_context=tls,
    authenticator=authenticate,
    auth_required=True,
    auth_require_tls=False,
)
controller.start()
print("ready", flush=True)
while True:
    time.sleep(3600)
