"""Mark of generated images: a machine-readable statement, in XMP, that a model made them.

Owns the XMP packet (ISO 16684-1) with IPTC's digital source type. Article 50(2) of the EU's AI Act
(Regulation 2024/1689) asks providers for such a mark from 2 August 2026. Must not know a file's
format. Invariant: the mark says nothing of the request besides "from text" or "from an image".
"""

from __future__ import annotations

from jobs.contract.spec import JobSpec

_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{_TYPES}trainedAlgorithmicMedia"
EDITED = f"{_TYPES}compositeWithTrainedAlgorithmicMedia"
_PACKET = """<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="Printworks"
    Iptc4xmpExt:DigitalSourceType="{kind}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def source_type(spec: JobSpec) -> str:
    """Return IPTC's digital source type: of an image from text, or from an input image."""
    return EDITED if spec.image else GENERATED


def xmp_of(spec: JobSpec) -> bytes:
    """Return the XMP packet of an image, in UTF-8."""
    return _PACKET.format(kind=source_type(spec)).encode()
