"""Reads files with oslo.config and PasteDeploy and prints what they hold.

Usage: python_readers.py FOLDER. Reads FOLDER/paste/* as PasteDeploy does and
FOLDER/oslo/* as oslo.config does; prints one JSON object. Factories are not
imported: their names stand for them.
"""

import json
import os
import sys

from oslo_config import cfg
from paste.deploy import loadwsgi


class Stub:
    """Stands for the object a factory expression names."""

    def __init__(self, name):
        self.name = name


class EntryPoint:
    def __init__(self, name, group, value):
        self.value = value

    def load(self):
        return Stub(self.value)


def egg(object_type, uri, spec, name, relative_to, global_conf):
    protocol = loadwsgi._flatten(object_type.egg_protocols)[0]
    return loadwsgi.LoaderContext(Stub("egg:%s#%s" % (spec, name)), object_type, protocol, global_conf or {}, {}, None)


def call(object_type, uri, spec, name, relative_to, global_conf):
    return loadwsgi.LoaderContext(Stub(spec), object_type, None, global_conf or {}, {}, None)


loadwsgi.importlib_metadata.EntryPoint = EntryPoint
loadwsgi._loaders["egg"] = egg
loadwsgi._loaders["call"] = call


def flat(context):
    """Names of the factories a request passes, from the outside in."""
    kind = context.object_type
    if kind is loadwsgi.PIPELINE:
        filters = [name for one in context.filter_contexts for name in flat(one)]
        return filters + flat(context.app_context)
    if kind is loadwsgi.FILTER_WITH:
        return flat(context.filter_context) + flat(context.next_context)
    if kind is loadwsgi.FILTER_APP:
        return flat(context.filter_context) + flat(context.next_context)
    return [context.object.name]


def is_urlmap(name):
    return name.lower() in ("egg:paste#urlmap", "paste.urlmap:urlmap_factory")


def load(loader, name):
    """Loads an app with all a urlmap leads to, as serving it would."""
    context = loader.get_context(loadwsgi.APP, name)
    factory = getattr(context.object, "name", "")
    if is_urlmap(factory):
        return {path: load(loader, app) for path, app in sorted(context.local_conf.items())}
    return flat(context)


def paste(path):
    try:
        loader = loadwsgi.ConfigLoader(path)
        parser = loader.parser
        sections = {name: dict(options) for name, options in parser._sections.items()}
        own = ("here", "__file__")
        defaults = {key: value for key, value in parser._defaults.items() if key not in own}
        if defaults:
            sections["DEFAULT"] = defaults
        found = {"sections": sections}
    except Exception as error:
        return {"error": "%s: %s" % (type(error).__name__, error)}
    try:
        found["main"] = load(loader, "main")
        found["pipelines"] = {
            name: flat(loader.get_context(loadwsgi.APP, name.split(":", 1)[1].strip()))
            for name in sections
            if name.startswith("pipeline:")
        }
    except Exception as error:
        found["load_error"] = "%s: %s" % (type(error).__name__, error)
    return found


def oslo(path):
    """All options as MultiStrOpt and as StrOpt, through the public API."""
    sections, normalized = {}, {}
    parser = cfg.ConfigParser(path, sections)
    parser._add_normalized(normalized)
    try:
        parser.parse()
    except Exception as error:
        return {"error": "%s: %s" % (type(error).__name__, error)}
    last, every = cfg.ConfigOpts(), cfg.ConfigOpts()
    for conf in (last, every):
        conf(args=[], default_config_files=[path])
    found = {}
    for group, options in normalized.items():
        found[group] = {}
        for number, key in enumerate(options):
            where = None if group == "DEFAULT" else group
            last.register_opt(cfg.StrOpt("one%d" % number, dest=key), group=where)
            every.register_opt(cfg.MultiStrOpt("all%d" % number, dest=key), group=where)
            found[group][key] = [value(conf, where, key) for conf in (last, every)]
    return {"sections": found}


def value(conf, group, key):
    return conf._get(key, None if group is None else conf._get_group(group))


def read_all(folder, reader):
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return {os.path.basename(path): reader(path) for path in paths}


base = sys.argv[1]
readers = {"paste": paste, "oslo": oslo}
print(json.dumps({kind: read_all(os.path.join(base, kind), reader) for kind, reader in readers.items()}))
