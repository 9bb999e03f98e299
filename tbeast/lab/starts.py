"""Where the walk begins: a plausible dollar price and a plausible day's turnover for every asset.

The numbers are invented in the right order of magnitude. An asset that the table does not know gets a start
derived from its code alone, so that the same code always begins at the same price.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

_TABLE: Final = """
BTC 83420 31000     ETH 3185 18000      XRP 2.14 4200       SOL 141.8 4800      LINK 13.9 610
DOGE 0.1642 1400    UNI 6.45 240        ADA 0.4871 720      XLM 0.2538 210      TAO 312.4 190
HBAR 0.1476 230     VVV 2.87 22         ONDO 0.5312 110     PUMP 0.00312 160    AERO 0.7134 48
ENA 0.2864 260      AAVE 181.3 330      FET 0.2791 120      PENGU 0.01173 190   ICP 3.94 110
FARTCOIN 0.3418 130 KAITO 0.6127 41     CRV 0.4183 130      ALGO 0.1462 62      MORPHO 1.487 33
ZEC 412.6 900       QNT 83.7 18         LTC 86.4 520        BCH 521.3 410       INJ 5.86 74
FIL 1.583 150       HNT 2.08 9          RENDER 1.764 51     JTO 0.4471 21       WIF 0.3892 140
PYTH 0.07418 32     SHIB 0.00000861 170 APE 0.2316 19       GRT 0.04427 24      GALA 0.007213 58
AMP 0.00204 6       XTZ 0.5218 23       YFI 4316 14         SKL 0.01263 8       BAT 0.2268 21
IMX 0.2917 17       SAND 0.1463 36      UMA 0.8241 7        MANA 0.1527 24      ENS 10.84 33
AVAX 13.72 410      DASH 48.9 130       DOT 2.186 190       TRX 0.2797 640      SEI 0.1281 72
MOODENG 0.07362 38  PENDLE 2.118 44     ETC 13.46 82        TIA 0.5873 61       ATOM 2.371 93
AKT 0.4826 11       STX 0.3094 22       FLR 0.01274 9       SPX 0.5683 29       LDO 0.6278 51
EIGEN 0.4736 34     FLOW 0.2184 13      RUNE 0.6413 28      MINA 0.08731 11     AXS 1.027 26
POPCAT 0.1021 18    KSM 7.83 9          COMP 27.4 19        EGLD 7.62 12        SNX 0.4861 22
BNB 871.4 1700      WLFI 0.1482 140     MON 0.02736 95      RAY 1.083 28        ASTER 0.8627 210
MNT 1.048 80        CC 0.09317 31       TURBO 0.001872 21   JASMY 0.006824 23   JUP 0.2174 48
SUSHI 0.3271 14     ATH 0.01386 12      VIRTUAL 0.8236 64   SUPER 0.2268 8      GRASS 0.3271 14
CAKE 2.196 45       1INCH 0.1684 14     PNUT 0.08416 33     DYDX 0.1873 17      ARKM 0.2146 26
CHZ 0.03174 38      AIXBT 0.04127 27    GMX 8.91 11         ILV 7.34 6          MOG 0.000000296 13
WLD 0.5714 140      BONK 0.00000914 130 XPL 0.1683 87       POL 0.1284 66       CRO 0.1042 24
VET 0.01137 31      S 0.08261 43        RSR 0.00371 12      TOSHI 0.000427 9    SKY 0.06418 19
BAND 0.3713 7       NMR 10.27 16        BERA 0.8264 29      CVX 1.873 11        TNSR 0.1087 24
FLOKI 0.0000462 37  ANKR 0.007214 11    KMNO 0.05372 9      API3 0.4573 21      ZRX 0.1476 9
TRB 20.83 17        2Z 0.1174 18        METIS 6.18 6        STORJ 0.1327 10     ENJ 0.02964 7
NEAR 1.847 190      HYPE 31.26 410      SUI 1.524 760       ARB 0.2037 140      PEPE 0.00000467 510
TRUMP 5.73 230      APT 1.764 97        OP 0.3017 84        ZRO 1.382 46        STRK 0.1162 58
PI 0.2134 27        ETHFI 0.7821 37     OKB 111.6 42        AR 3.87 19          MAGIC 0.09834 12
ZK 0.03412 33       LPT 3.41 16         BIGTIME 0.02316 7   NEO 3.862 17        CELO 0.1187 14
LINEA 0.00873 36    W 0.04126 23        NOT 0.000583 21     BLUR 0.02914 19     QTUM 1.372 14
"""

_CELLS: Final = _TABLE.split()
_STARTS: Final = {
    code: (float(price), float(turnover) * 1e6)
    for code, price, turnover in zip(_CELLS[0::3], _CELLS[1::3], _CELLS[2::3], strict=True)
}


def start_of(code: str) -> tuple[float, float]:
    """Give the starting price in USD and the turnover of a day in USD, over all exchanges."""
    known = _STARTS.get(code)
    if known is not None:
        return known
    seed = crc32(code.encode("utf-8"))
    price = 10.0 ** (-3.0 + 5.0 * (seed & 0xFFFF) / 0xFFFF)
    turnover = 5e6 * 10.0 ** ((seed >> 16) / 0xFFFF)
    return float(f"{price:.4g}"), float(f"{turnover:.3g}")
