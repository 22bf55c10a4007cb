"""HTTP: the token, hosts and origins, sizes, many clients at once, and the end of the process."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx2
import mcp
import pytest
from pydantic import SecretStr

import memory_storage as ms
from memory_storage.errors import ConfigurationError, CredentialError, InsecureConnectionError
from memory_storage.integrations.mcp import HttpOptions, make_http_app, make_server, read_token, run_http
from tests.backends import in_memory

from .clients import TOKEN, command, environment, fields, http_server, over_http, run
from .test_hostile import HELLO, call

BODY = json.dumps(HELLO).encode()
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
AUTHORIZED = {**HEADERS, "authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def post(storage):
    """Sends a request to the application in this process."""
    server = make_server(storage)

    def send(method: str = "POST", path: str = "/mcp", content: bytes = BODY, **headers: str) -> httpx2.Response:
        async def main() -> httpx2.Response:
            application = make_http_app(server, SecretStr(TOKEN))
            sent = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
            async with (
                server.session_manager.run(),
                httpx2.AsyncClient(
                    transport=httpx2.ASGITransport(application), base_url="http://127.0.0.1:1"
                ) as client,
            ):
                return await client.request(method, path, content=content, headers=sent)

        return anyio.run(main)

    return send


@in_memory
@pytest.mark.parametrize(("method", "path"), [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/"), ("OPTIONS", "/mcp")])
def test_without_the_token_the_answer_is_401(post, method, path):
    wrong = ["", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN]
    for headers in [{}, *({"authorization": header} for header in wrong)]:
        answer = post(method, path, **headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == 'Bearer realm="memory-storage"'
        assert TOKEN not in answer.text


@in_memory
def test_with_the_token_the_server_answers(post):
    answer = post(authorization=f"Bearer {TOKEN}")
    assert (answer.status_code, answer.json()["result"]["serverInfo"]["name"]) == (200, "memory-storage")


@in_memory
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "evil.example:80@127.0.0.1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1.evil.example"}, 403),
        ({"content_type": "text/plain"}, 400),
        ({"host": "localhost:1234", "origin": "http://localhost:5173"}, 200),
        ({"host": "[::1]:1234"}, 200),
    ],
)
def test_only_loopback_hosts_and_origins_are_answered(post, headers, status):
    assert post(authorization=f"Bearer {TOKEN}", **headers).status_code == status


@in_memory
def test_other_methods_are_refused(post):
    for method in ("GET", "DELETE", "PUT", "HEAD", "OPTIONS"):
        answer = post(method, authorization=f"Bearer {TOKEN}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@in_memory
def test_there_is_one_path(post):
    for path in ("/", "/mcp/x", "/../mcp/..", "/.well-known/oauth-protected-resource"):
        assert post(path=path, authorization=f"Bearer {TOKEN}").status_code == 404


@in_memory
@pytest.mark.parametrize(
    ("authorization", "status"), [(f"Bearer {TOKEN}", 413), ("Bearer wrong", 401)], ids=["token", "none"]
)
def test_a_large_body_is_refused(post, authorization, status):
    assert post(content=b" " * 5_000_000, authorization=authorization).status_code == status


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with spaces in the middle", "line\nbreak-0123456789", "ü" * 20]
)
def test_a_weak_token_is_refused(token, tmp_path, monkeypatch):
    with pytest.raises(CredentialError, match="at least 16 characters") as refused:
        make_http_app(None, SecretStr(token))
    assert not token or token not in str(refused.value)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(CredentialError):
        read_token(tmp_path / "token")
    monkeypatch.setenv("MEMORY_STORAGE_MCP_TOKEN", token)
    if token:
        with pytest.raises(CredentialError):
            read_token()


def test_the_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMORY_STORAGE_MCP_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("MEMORY_STORAGE_MCP_TOKEN", TOKEN)
    assert read_token().get_secret_value() == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN[::-1]}\n")
    assert read_token(tmp_path / "token").get_secret_value() == TOKEN[::-1]
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")


def test_a_storage_opens_while_the_token_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("MEMORY_STORAGE_MCP_TOKEN", TOKEN)
    ms.MemoryStorage.open(":memory:").close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "memory.example", ""])
def test_another_address_than_loopback_needs_tls(host, tmp_path):
    with pytest.raises(InsecureConnectionError, match="not loopback"):
        HttpOptions(host)
    assert HttpOptions(host, certificate=tmp_path / "c", key=tmp_path / "k").scheme == "https"
    with pytest.raises(ConfigurationError, match="give both"):
        HttpOptions(host, certificate=tmp_path / "c")


def test_an_address_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other, ms.MemoryStorage.open(":memory:") as storage:
        options = HttpOptions(port=other.getsockname()[1])
        with pytest.raises(ConfigurationError, match="in use"):
            run_http(make_server(storage), SecretStr(TOKEN), options)


@pytest.mark.slow
def test_a_process_serves_only_with_its_token_and_ends_by_sigterm(database):
    with http_server(database) as (url, process):
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.post(url, content=BODY, headers=HEADERS).status_code == 401
        assert httpx2.post(url, content=BODY, headers=AUTHORIZED).status_code == 200
        assert httpx2.post(url, content=BODY, headers={**AUTHORIZED, "host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert TOKEN not in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_it_with_130(database):
    with http_server(database) as (_, process):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.slow
def test_a_token_is_made_and_written_once(database):
    with subprocess.Popen(
        command("-d", database, "--http", "--port", "0"), env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        token = re.fullmatch(r"token: (\S{43})\n", process.stderr.readline())[1]
        url = process.stderr.readline().split()[-1]
        answer = httpx2.post(url, content=BODY, headers={**HEADERS, "authorization": f"Bearer {token}"})
        process.terminate()
        assert token not in process.stderr.read()
    assert answer.status_code == 200


@pytest.mark.slow
def test_concurrent_clients_lose_nothing(database):
    clients, steps = 8, 20

    with http_server(database) as (url, _):

        async def start(client: mcp.Client) -> str:
            return (await fields(client, "start_episode", task="shared"))["episode_id"]

        key = run(over_http(url), start)

        def work(number: int) -> list[int]:
            async def scenario(client: mcp.Client) -> list[int]:
                mine = []
                for at in range(steps):
                    arguments = {"episode_id": key, "tool": f"client-{number}", "step_id": f"{number}/{at}"}
                    mine.append((await fields(client, "record_step", **arguments))["step_number"])
                    await fields(client, "search_episodes", query="shared")
                return mine

            return run(over_http(url), scenario)

        with ThreadPoolExecutor(clients) as pool:
            numbers = list(pool.map(work, range(clients)))
    assert sorted(one for mine in numbers for one in mine) == list(range(1, clients * steps + 1))
    assert all(mine == sorted(mine) for mine in numbers)
    with ms.MemoryStorage.open(database) as storage:
        assert storage.steps.count(key) == clients * steps


@pytest.mark.slow
def test_tls_is_served_with_a_certificate(database, tmp_path):
    import ssl

    import trustme

    authority = trustme.CA()
    identity = authority.issue_cert("memory.example")
    identity.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    identity.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    flags = ["--tls-certificate", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"]
    with http_server(database, *flags, "--allowed-host", "memory.example") as (url, _):
        assert url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        extensions = {"sni_hostname": "memory.example"}
        with httpx2.Client(verify=context) as client:
            request = {"content": json.dumps(call(1, task="x")).encode(), "extensions": extensions}
            named = client.post(url, headers={**AUTHORIZED, "host": "memory.example"}, **request)
            other = client.post(url, headers={**AUTHORIZED, "host": "other.example"}, **request)
    assert (named.status_code, other.status_code) == (200, 421)
