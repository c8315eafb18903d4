"""Certificates for tests of TLS, made afresh by the `openssl` program: an authority, and those it vouches for."""

import shutil
import ssl
import subprocess

_CONFIG = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[elsewhere]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:elsewhere.example
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

_ECDSA = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
_RSA = ("-newkey", "rsa:2048")


def has_openssl():
    return shutil.which("openssl") is not None


class Certificates:
    """Files in a folder: each has a certificate and its key, and is named after what it is for.

    `rsa` and `ecdsa` are servers called localhost, `elsewhere` is one with another name, `client` is a client; the
    `authority` signed them all. `stranger` calls itself localhost, and nobody vouches for it.

    A folder that has them already, from the process that made them, serves as it is.
    """

    def __init__(self, folder):
        self.folder = folder
        self.authority = self._make("authority", "authority", _ECDSA)
        self.rsa = self._make("rsa", "server", _RSA, self.authority)
        self.ecdsa = self._make("ecdsa", "server", _ECDSA, self.authority)
        self.elsewhere = self._make("elsewhere", "elsewhere", _ECDSA, self.authority)
        self.client = self._make("client", "client", _ECDSA, self.authority)
        self.stranger = self._make("stranger", "server", _ECDSA)

    def server_context(self, certificate=None):
        """Of a server that does not ask for certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate or self.ecdsa)
        return context

    def mutual_server_context(self):
        """Of a server that takes only clients for which the authority vouches."""
        context = self.server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.authority)
        return context

    def client_context(self, certificate=None):
        """Of a client that trusts the authority and nobody else."""
        context = ssl.create_default_context(cafile=self.authority)
        if certificate:
            context.load_cert_chain(certificate)
        return context

    def _make(self, name, extensions, key, issuer=None):
        """Return the path of a new file; without an issuer the certificate signs itself."""
        path = self.folder / f"{name}.pem"
        if path.exists():
            return path
        config_path = self.folder / "openssl.cnf"
        config_path.write_text(_CONFIG)
        key_path = self.folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-config", config_path, "-extensions", extensions]
        command += ["-nodes", *key, "-subj", f"/CN={name}", "-days", "30", "-keyout", key_path, "-out", path]
        if issuer:
            command += ["-CA", issuer, "-CAkey", issuer]
        subprocess.run(command, check=True, capture_output=True)
        path.write_text(path.read_text() + key_path.read_text())
        return path
