"""The settings: every fault at once, and nothing guessed."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import EXCHANGES as MAPPED_EXCHANGES
from tbeast.domain.plans import PLANS
from tbeast.errors import SettingsError
from tbeast.settingkinds import TIERS
from tbeast.settings import (
    DEFAULT,
    EXCHANGES,
    SETTINGS,
    TO_COME,
    ExchangeAddress,
    KeySetting,
    Layer,
    Settings,
    environment_layer,
    load,
    shown,
    toml_layer,
)


def from_environment(**environ: str) -> Settings:
    return load([environment_layer(environ)])


def from_toml(text: str) -> Settings:
    return load([toml_layer(text, "test.toml")])


class FaultCase(SynchronousTestCase):
    def faults(self, *layers: Layer) -> tuple[str, ...]:
        error: SettingsError = self.assertRaises(SettingsError, load, layers)
        return error.faults

    def fault(self, *layers: Layer) -> str:
        faults = self.faults(*layers)
        self.assertEqual(len(faults), 1, faults)
        return faults[0]


class DefaultTests(SynchronousTestCase):
    def test_everything_has_a_default(self) -> None:
        settings = load([])
        self.assertEqual(settings.server_type, "APP_REPORT_SERVER")
        self.assertEqual(settings.listen, "0.0.0.0")
        self.assertEqual((settings.tcp_port_lpo, settings.tcp_port_lrs), (8080, 9090))
        self.assertEqual((settings.health_port_lpo, settings.health_port_lrs), (8081, 9091))
        self.assertEqual(settings.health_port_webhook, 8083)
        self.assertEqual((settings.udp_port_lpo, settings.udp_port_lrs), (2679, 2680))
        self.assertEqual(settings.feeds, "live")
        self.assertFalse(settings.simulated)
        self.assertEqual(settings.exchange_addresses, dict.fromkeys(EXCHANGES, ExchangeAddress()))
        self.assertEqual((settings.keys, settings.trusted_proxies), ((), ()))
        self.assertEqual(settings.max_price_age_seconds, 60.0)
        self.assertEqual((settings.node_env, settings.state), ("development", "./var"))
        for name in ("aurora_url", "db_secret_name", "cache_url", "aws_region", "admin_key", "tls_cert", "tls_key"):
            self.assertIsNone(getattr(settings, name))
        self.assertEqual(set(settings.origins.values()), {DEFAULT})

    def test_the_exchanges_are_those_of_the_asset_tables(self) -> None:
        self.assertEqual(EXCHANGES, MAPPED_EXCHANGES)

    def test_the_tiers_are_those_of_the_plans(self) -> None:
        self.assertEqual(TIERS, tuple(PLANS))

    def test_every_default_is_itself_allowed(self) -> None:
        for name, setting in SETTINGS.items():
            if setting.default not in (None, ()):
                self.assertEqual(setting.kind.read(str(setting.default)), setting.default, name)

    def test_what_is_to_come_is_a_setting(self) -> None:
        self.assertLess(set(TO_COME), set(SETTINGS))


class LayerTests(FaultCase):
    def test_later_layers_win(self) -> None:
        settings = load(
            [
                Layer("this host", {"CLUSTER_NODE": "falcon"}),
                toml_layer("tcp_port_lpo = 1\nUDP_PORT_LPO = 2\n", "a.toml"),
                environment_layer({"TCP_PORT_LPO": "3"}),
                Layer("option --state", {"TBEAST_STATE": "elsewhere"}),
            ]
        )
        self.assertEqual((settings.tcp_port_lpo, settings.udp_port_lpo), (3, 2))
        self.assertEqual((settings.cluster_node, settings.state), ("falcon", "elsewhere"))
        self.assertEqual(settings.origins["TCP_PORT_LPO"], "environment")
        self.assertEqual(settings.origins["UDP_PORT_LPO"], "a.toml, line 2")
        self.assertEqual(settings.origins["CLUSTER_NODE"], "this host")
        self.assertEqual(settings.origins["TCP_PORT_LRS"], DEFAULT)

    def test_a_fault_that_is_overruled_is_still_a_fault(self) -> None:
        fault = self.fault(toml_layer("tcp_port_lpo = 99999", "a.toml"), environment_layer({"TCP_PORT_LPO": "80"}))
        self.assertIn("a.toml, line 1: TCP_PORT_LPO = 99999: must be a whole number from 0 to 65535", fault)

    def test_empty_counts_as_not_set(self) -> None:
        settings = load([toml_layer('cache_url = "valkey"', "a.toml"), environment_layer({"CACHE_URL": " "})])
        self.assertEqual(settings.cache_url, "valkey")
        self.assertEqual(from_environment(TCP_PORT_LPO="").tcp_port_lpo, 8080)

    def test_the_environment_is_full_of_other_things(self) -> None:
        layer = environment_layer({"PATH": "/bin", "SERVER_NAME": "x", "NODE_ENV": "test", "TBEAST_STATE": "s"})
        self.assertEqual(dict(layer.values), {"NODE_ENV": "test", "TBEAST_STATE": "s"})

    def test_an_unknown_name_of_ours_in_the_environment(self) -> None:
        fault = self.fault(environment_layer({"TBEAST_FEED": "lab", "FEEDS": "lab"}))
        self.assertEqual(fault, "environment: TBEAST_FEED: there is no such setting; did you mean TBEAST_FEEDS?")

    def test_an_unknown_name_in_the_file(self) -> None:
        faults = self.faults(toml_layer("[server]\nport = 1\n", "a.toml"), toml_layer("tcp_port = 1", "b.toml"))
        self.assertIn("a.toml, line 1: server: there is no such setting", faults[0])
        self.assertIn("b.toml, line 1: tcp_port: there is no such setting; did you mean TCP_PORT_L", faults[1])

    def test_the_same_name_in_both_spellings(self) -> None:
        fault = self.fault(toml_layer("tcp_port_lpo = 1\nTCP_PORT_LPO = 1\n", "a.toml"))
        self.assertEqual(fault, "a.toml, line 2: TCP_PORT_LPO is the same setting as tcp_port_lpo: set it once")

    def test_a_file_that_is_not_toml(self) -> None:
        error = self.assertRaises(SettingsError, toml_layer, "tcp_port_lpo = \n", "a.toml")
        self.assertIn("a.toml: not TOML: ", error.faults[0])
        self.assertIn("line 1", error.faults[0])

    def test_lines_of_a_file(self) -> None:
        layer = toml_layer(
            '# tcp_port_lpo = 3\n\n  "tcp_port_lpo" = 3\ntbeast_trusted_proxies = [\n  "10.0.0.0/8",\n]\n'
            '[[tbeast_keys]]\nkey = "0123456789"\n',
            "a.toml",
        )
        self.assertEqual(dict(layer.lines), {"tcp_port_lpo": 3, "tbeast_trusted_proxies": 4, "tbeast_keys": 7})

    def test_all_faults_at_once(self) -> None:
        faults = self.faults(
            toml_layer('server_type = "LPO"\nudp_port_lpo = true\ntbeast_tls_cert = "c.pem"\n', "a.toml"),
            environment_layer({"TBEAST_MAX_PRICE_AGE_SECONDS": "nan", "TBEAST_NONSENSE_AND_MORE": "1"}),
        )
        self.assertEqual(len(faults), 5, faults)
        for text in ("SERVER_TYPE = 'LPO'", "UDP_PORT_LPO = True", "TLS_CERT", "AGE_SECONDS = 'nan'", "NONSENSE"):
            self.assertTrue(any(text in fault for fault in faults), text)


class ValueTests(FaultCase):
    def assertRefused(self, name: str, *raws: object) -> None:
        for raw in raws:
            fault = self.fault(Layer("here", {name: raw}))
            self.assertIn(f"here: {name} = ", fault)
            self.assertIn(SETTINGS[name].kind.allowed, fault)

    def test_ports(self) -> None:
        for raw in ("0", " 65535 ", "08080", 0, 443):
            self.assertEqual(load([Layer("here", {"TCP_PORT_LPO": raw})]).tcp_port_lpo, int(raw))
        self.assertRefused("TCP_PORT_LPO", "-1", "65536", "80.0", "1_000", "http", "²", -1, 65536, 80.0, True, [80], {})

    def test_numbers(self) -> None:
        for raw in ("1", "2.5", 3600, 1.25):
            age = load([Layer("here", {"TBEAST_MAX_PRICE_AGE_SECONDS": raw})]).max_price_age_seconds
            self.assertEqual(age, float(raw))
        self.assertRefused(
            "TBEAST_MAX_PRICE_AGE_SECONDS", "0", "0.99", "3601", "-5", "inf", "nan", "1e2", float("nan"), True, [1]
        )

    def test_words(self) -> None:
        self.assertEqual(from_environment(SERVER_TYPE="all_server").server_type, "ALL_SERVER")
        self.assertEqual(from_environment(TBEAST_FEEDS=" LAB ").feeds, "lab")
        self.assertRefused("TBEAST_FEEDS", "labs", 1, True, ["lab"])
        self.assertRefused("SERVER_TYPE", "SERVER")

    def test_exchange_addresses(self) -> None:
        settings = from_environment(
            TBEAST_KRAKEN_WS_URL="ws://127.0.0.1:9001/v2", TBEAST_OKX_REST_URL="https://relay.example/okx?a=1"
        )
        self.assertEqual(settings.exchange_addresses["kraken"], ExchangeAddress("ws://127.0.0.1:9001/v2", None))
        self.assertEqual(settings.exchange_addresses["okx"].rest_url, "https://relay.example/okx?a=1")
        self.assertRefused(
            "TBEAST_GATEIO_WS_URL", "https://gate.example", "wss://", "gate.example", "wss:/x", "wss://h:0/",
            "wss://h:99999/", "wss://h:x/", "wss://a b/", "wss://h/#part", "wss://[::1/", "wss://ü.example/", 5,
        )  # fmt: skip
        self.assertRefused("TBEAST_GATEIO_REST_URL", "wss://gate.example", "ftp://gate.example")

    def test_a_password_in_an_address_is_refused_and_not_shown(self) -> None:
        fault = self.fault(Layer("here", {"TBEAST_OKX_WS_URL": "wss://me:hunter2@okx.example"}))
        self.assertNotIn("hunter2", fault)

    def test_stores(self) -> None:
        for raw in ("db.example", "db.example:5433", "[::1]:5432", "postgresql://u:p@db/x?sslmode=require", "10.0.0.7"):
            self.assertEqual(from_environment(AURORA_URL=raw).aurora_url, raw)
        for raw in ("cache", "redis://cache:6379/0", "rediss://:pw@cache"):
            self.assertEqual(from_environment(CACHE_URL=raw).cache_url, raw)
        for name in ("AURORA_URL", "CACHE_URL"):
            for raw in ("http://x", "a b", "host:99999", "host:0", "/path", "user:pa/ss@host", "postgres:/u:pa/ss@h"):
                fault = self.fault(Layer("here", {name: raw}))
                self.assertIn(f"here: {name} = (not shown): must be", fault)
                self.assertNotIn("ss@", fault)
                self.assertNotIn("pa", fault.partition("must be")[2].replace("part", ""))

    def test_addresses(self) -> None:
        for raw in ("::", "127.0.0.1", "fe80::1"):
            self.assertEqual(from_environment(TBEAST_LISTEN=raw).listen, raw)
        self.assertRefused("TBEAST_LISTEN", "localhost", "127.0.0.1:80", "0.0.0.0/0", 1)

    def test_trusted_proxies(self) -> None:
        expected = (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("fd00::/8"))
        self.assertEqual(
            from_environment(TBEAST_TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.7,fd00::/8,").trusted_proxies, expected
        )
        self.assertEqual(
            from_toml('tbeast_trusted_proxies = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]').trusted_proxies, expected
        )
        self.assertEqual(from_toml("tbeast_trusted_proxies = []").trusted_proxies, ())
        self.assertRefused("TBEAST_TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.0/33", "proxy.example", [1], 7)
        self.assertIn("host bits", self.fault(Layer("here", {"TBEAST_TRUSTED_PROXIES": "10.0.0.1/8"})))

    def test_names_of_things_elsewhere(self) -> None:
        arn = "arn:aws:secretsmanager:us-east-2:123456789012:secret:tbeast/db-AbCdEf"
        settings = from_environment(
            AWS_REGION="us-gov-west-1", DB_SECRET_NAME=arn, SQS_USAGE_LOG_QUEUE_URL="https://sqs.example/1/usage"
        )
        self.assertEqual(settings.aws_region, "us-gov-west-1")
        self.assertEqual(settings.db_secret_name, arn)
        self.assertEqual(settings.sqs_usage_log_queue_url, "https://sqs.example/1/usage")
        self.assertRefused("AWS_REGION", "ohio", "us-east")
        self.assertRefused("CLUSTER_NODE", "a b", "node|1", "x" * 254)
        self.assertRefused("TBEAST_STATE", "a\0b", "a\nb")

    def test_a_long_value_is_shortened(self) -> None:
        fault = self.fault(Layer("here", {"CLUSTER_NODE": "ä" * 9_999}))
        self.assertLess(len(fault), 250)

    @settings(deadline=None, max_examples=150)
    @given(
        st.sampled_from(sorted(SETTINGS)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
    def test_no_value_gets_past_the_faults(self, name: str, raw: object) -> None:
        """Whatever is set, the outcome is settings or faults; no other exception, and no value of another type."""
        layer = Layer("here", {name: raw})
        try:
            loaded = load([layer])
        except SettingsError as error:
            self.assertTrue(all("here" in fault for fault in error.faults), error.faults)
        else:
            self.assertIsInstance(shown(name, loaded), str)


class KeyTests(FaultCase):
    def test_in_the_environment(self) -> None:
        settings = from_environment(TBEAST_KEYS="0123456789, desk:pro:abcdefgh ,tb_AAAAAAAAAA_" + "b" * 32)
        self.assertEqual(
            settings.keys,
            (
                KeySetting("key-1", "partner", "0123456789"),
                KeySetting("desk", "pro", "abcdefgh"),
                KeySetting("key-3", "partner", "tb_AAAAAAAAAA_" + "b" * 32),
            ),
        )

    def test_in_toml(self) -> None:
        array = from_toml('tbeast_keys = ["0123456789", {name = "desk", tier = "pro", key = "abcdefgh"}]')
        self.assertEqual(
            array.keys, (KeySetting("key-1", "partner", "0123456789"), KeySetting("desk", "pro", "abcdefgh"))
        )
        tables = from_toml('[[tbeast_keys]]\nkey = "0123456789"\n[[tbeast_keys]]\nname = "x"\nkey = "abcdefgh"\n')
        self.assertEqual(
            tables.keys, (KeySetting("key-1", "partner", "0123456789"), KeySetting("x", "partner", "abcdefgh"))
        )

    def test_refused(self) -> None:
        for raw, why in (
            ("abc", "entry 1: a key is 4 to 128"),
            ("~0123456789", "does not begin with ~"),
            ("01234567|9", "entry 1: a key is"),
            ("0123456789,a:b", "entry 2 is neither"),
            ("a b:pro:0123456789", "entry 1: a name is"),
            ("a:gold:0123456789", "entry 1: a tier is one of free, pro"),
            ("0123456789,x:free:0123456789", "the same key stands there twice"),
            ("x:free:0123456789,x:free:abcdefgh", "the same name stands there twice"),
            ([{"name": "x"}], "entry 1 is neither a text nor a table"),
            ([{"key": "0123456789", "colour": "red"}], "entry 1 is neither a text nor a table"),
            ([{"key": 123456789}], "entry 1: a key is"),
            ([{"key": "0123456789", "tier": ["pro"]}], "entry 1: a tier"),
            ([7], "entry 1"),
            (7, "TBEAST_KEYS"),
        ):
            fault = self.fault(Layer("here", {"TBEAST_KEYS": raw}))
            self.assertIn(why, fault)
            self.assertIn("(not shown)", fault)

    def test_no_secret_is_ever_shown(self) -> None:
        secrets = {
            "ADMIN_KEY": "correct-horse-battery",
            "TBEAST_KEYS": "desk:pro:opensesame",
            "AURORA_URL": "postgresql://me:hunter2@db/x",
            "CACHE_URL": "rediss://:hunter2@cache",
        }
        settings = from_environment(**secrets)
        told = repr(settings) + str(settings) + "".join(shown(name, settings) for name in SETTINGS)
        for word in ("correct-horse", "opensesame", "hunter2"):
            self.assertNotIn(word, told)
        self.assertEqual(shown("TBEAST_KEYS", settings), "desk:pro:***")
        self.assertEqual(shown("ADMIN_KEY", settings), "***")
        self.assertNotIn("tiny-key", self.fault(environment_layer({"ADMIN_KEY": "tiny-key"})))


class CombinationTests(FaultCase):
    def test_two_listeners_on_one_port(self) -> None:
        fault = self.fault(environment_layer({"HEALTH_PORT_LPO": "8080"}))
        self.assertEqual(
            fault,
            "TCP_PORT_LPO (default) and HEALTH_PORT_LPO (environment): both are TCP port 8080;"
            " give one of them another",
        )
        self.assertIn("UDP port 2680", self.fault(environment_layer({"UDP_PORT_LPO": "2680"})))

    def test_ports_that_do_not_meet(self) -> None:
        """TCP and UDP do not meet, nor do parts of which only one starts, nor ports that the system chooses."""
        self.assertEqual(from_environment(UDP_PORT_LPO="8080").udp_port_lpo, 8080)
        self.assertEqual(from_environment(SERVER_TYPE="APP_SERVER", TCP_PORT_LPO="9090").tcp_port_lpo, 9090)
        self.assertEqual(from_environment(TCP_PORT_LPO="0", HEALTH_PORT_LPO="0").tcp_port_lpo, 0)
        self.assertIn("8083", self.fault(environment_layer({"SERVER_TYPE": "ALL_SERVER", "TCP_PORT_LPO": "8083"})))

    def test_half_of_tls(self) -> None:
        self.assertIn("needs TBEAST_TLS_KEY as well", self.fault(environment_layer({"TBEAST_TLS_CERT": "c"})))
        self.assertIn("needs TBEAST_TLS_CERT as well", self.fault(environment_layer({"TBEAST_TLS_KEY": "k"})))
        settings = from_environment(TBEAST_TLS_CERT="c", TBEAST_TLS_KEY="k")
        self.assertEqual((settings.tls_cert, settings.tls_key), ("c", "k"))

    def test_the_lab_and_an_address(self) -> None:
        """An invented price and a real one must not meet in one answer."""
        fault = self.fault(
            toml_layer('tbeast_kraken_ws_url = "wss://kraken.example"', "a.toml"),
            Layer("option --feeds", {"TBEAST_FEEDS": "lab"}),
        )
        self.assertIn("TBEAST_FEEDS (option --feeds) and TBEAST_KRAKEN_WS_URL (a.toml, line 1)", fault)
        self.assertTrue(from_environment(TBEAST_FEEDS="lab").simulated)

    def test_one_mistake_is_told_once(self) -> None:
        self.fault(environment_layer({"TBEAST_FEEDS": "lap", "TBEAST_KRAKEN_WS_URL": "wss://kraken.example"}))
        self.fault(environment_layer({"TCP_PORT_LPO": "eighty", "HEALTH_PORT_LPO": "8082"}))


class UnusedTests(SynchronousTestCase):
    def test_what_has_no_effect_is_named(self) -> None:
        lines = from_environment(SERVER_TYPE="APP_SERVER", HEALTH_PORT_WEBHOOK="9999", ADMIN_KEY="a" * 16).unused_here()
        self.assertEqual(
            lines,
            [
                "HEALTH_PORT_WEBHOOK is set and has no effect: this version has no webhook push yet",
                "ADMIN_KEY is set and has no effect: SERVER_TYPE=APP_SERVER has no report surface, where /admin is",
            ],
        )
        self.assertEqual([], from_environment(SERVER_TYPE="APP_REPORT_SERVER", ADMIN_KEY="a" * 16).unused_here())

    def test_a_server_type_that_is_not_served_whole(self) -> None:
        expected = {
            "APP_SERVER": [],
            "REPORT_SERVER": [],
            "WEBHOOK_SERVER": ["SERVER_TYPE=WEBHOOK_SERVER: this version does not serve webhooks yet"],
            "ALL_SERVER": ["SERVER_TYPE=ALL_SERVER: this version does not serve webhooks yet"],
        }
        for server_type, lines in expected.items():
            self.assertEqual(from_environment(SERVER_TYPE=server_type).unused_here(), lines)

    def test_no_value_is_told(self) -> None:
        lines = from_environment(AURORA_URL="postgresql://me:hunter2@db/x").unused_here()
        self.assertNotIn("hunter2", "".join(lines))
