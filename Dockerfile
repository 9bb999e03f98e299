# The daemon, installed from its wheel. The state folder is a volume; the settings come from the environment.
#
#     docker build -t tbeast .
#     docker run --rm -p 8080:8080 -p 8081:8081 -p 2679:2679/udp tbeast

# the full image has a compiler for the native parts
FROM python:3.11 AS build
WORKDIR /source
COPY requirements/run.txt ./requirements/
RUN pip wheel --no-cache-dir --wheel-dir /wheels --requirement requirements/run.txt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY twisted ./twisted
COPY tbeast ./tbeast
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TBEAST_STATE=/var/lib/tbeast
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-compile /wheels/*.whl \
 && python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && python -c "from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))" \
 && useradd --system --uid 10001 --no-create-home --home-dir /var/lib/tbeast tbeast \
 && install --directory --owner=tbeast --group=tbeast --mode=0750 /var/lib/tbeast
USER tbeast
WORKDIR /var/lib/tbeast
VOLUME /var/lib/tbeast
EXPOSE 8080 8081 8083 9090 9091 2679/udp 2680/udp
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health' % (os.environ.get('HEALTH_PORT_LPO') or 8081), timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["twistd", "-n", "--pidfile=", "tbeast"]
