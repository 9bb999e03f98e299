"""What `twistd tbeast` and `twist tbeast` find; everything else is loaded only when it is asked for."""

from twisted.application.service import ServiceMaker

tbeast = ServiceMaker("tbeast", "tbeast.tap", "crypto prices over HTTP and UDP", "tbeast")
