"""Where settings come from: this host, a file, the environment, options; and whether the files they name are there.

The rules of the settings are in L{tbeast.settings}; here is only the reading that they must not do themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from tbeast.errors import SettingsError
from tbeast.settings import SETTINGS, Layer, Settings, environment_layer, toml_layer

_LARGEST_PEM = 16 * 1024 * 1024


def gather(
    config: str | None, environ: Mapping[str, str], options: Mapping[str, str | None], hostname: str
) -> tuple[list[Layer], list[str]]:
    """The layers, lowest first, and what went wrong in gathering them: a file that cannot be read, or is not TOML.

    @param config: path of the TOML file, or C{None} for none.
    @param options: setting name to the value of a command line option, C{None} where it was not given; the option
        is called as the setting is, without its prefix.
    """
    node = re.sub(r"[^A-Za-z0-9._-]", "-", hostname)[:253]
    layers = [Layer("this host", {"CLUSTER_NODE": node})]
    faults: list[str] = []
    if config is not None:
        try:
            with open(config, encoding="utf-8") as file:
                layers.append(toml_layer(file.read(), config))
        except SettingsError as error:
            faults.extend(error.faults)
        except (OSError, ValueError) as error:
            faults.append(f"{config}: cannot be read: {_words(error)}")
    layers.append(environment_layer(environ))
    for name, value in options.items():
        if value is not None:
            layers.append(Layer(f"option --{name.removeprefix('TBEAST_').lower()}", {name: value}))
    return layers, faults


def file_faults(settings: Settings) -> list[str]:
    """What is wrong with the files and folders that the settings name, one sentence each."""
    faults = []
    authorities = ("TBEAST_DB_CA", "TBEAST_CACHE_CA")
    for name in ("TBEAST_TLS_CERT", "TBEAST_TLS_KEY", *authorities):
        path = getattr(settings, SETTINGS[name].attribute)
        if path is not None:
            where = f"{settings.origins[name]}: {name} = {path!r}"
            try:
                with open(path, "rb") as file:
                    text = file.read(_LARGEST_PEM)
            except OSError as error:
                faults.append(f"{where}: cannot be read: {_words(error)}")
            else:
                if name in authorities and b"-----BEGIN CERTIFICATE-----" not in text:
                    faults.append(f"{where}: there is no certificate in it")
    if os.path.lexists(settings.state) and not os.path.isdir(settings.state):
        faults.append(f"{settings.origins['TBEAST_STATE']}: TBEAST_STATE = {settings.state!r}: is not a folder")
    return faults


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
