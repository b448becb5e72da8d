"""Generators of the permutations of Wyckoff letters by the normaliser of each space group.

A number opens a group; each word that follows is a permutation: its k-th letter is what position k becomes. Groups that
are not named have none but the identity. All were found by :func:`autoperi.symmetry.normalizer.search`; the tests
repeat it.
"""

TABLE = """
2 abcfhdgei abdcegfhi acbdfeghi bacdhfgei 3 abdce acbde bacde 5 bac 6 bac 10 abcghfdeilkjmno baefcdhgikjlnmo
cfadebghkjilmno 11 abdcef acbdef bacdef 12 bacdefghij cdabfehgij 13 badcfeg cdabefg 14 adcbe badce 15 bacdef cdabef 16
abdcfeghikjlqsrtmonpu acbdegfhmnopijklqsrtu baefcdhgijklopmnrqtsu 17 bacde cdabe 18 bac 20 bac 21 abcdghefijkl
badcefghjikl cdabfehgjikl 22 abcdfeghjik bacdefghijk cdabhijefgk 23 abdcefijghk acbdijghefk bacdefjihgk 24 acbd bacd 25
acbdghefi badcfeghi 26 bac 27 acbde badce 28 bacd 30 bac 32 bac 34 bac 35 abcedf bacdef 37 bacd 38 bacedf 39 bacd 42
abdce 44 abdce bacde 45 bac 47 abefcdghikjlqrstmnopuvyzwxA acbdegfhqsrtmonpikjlyzwxuvA badcfehgijklopmnstqrvuwxyzA 48
abcdfeghijklm abdcefghklijm acbdefklijghm bacdefghlkjim 49 bacdhfgelkjinmopqr cdabghefjiklopmnqr 50 abcdefijghklm
badcefghijlkm cdabfehgjilkm 51 badcfeghjikl cdabefhgijkl 52 bacde 53 badcefghi cdabfeghi 54 bacedf 55 badcefhgi
cdabfeghi 56 abdce bacde 57 bacde 58 bacdefgh cdabfegh 59 abcdfeg abdcefg bacdefg 60 bacd 61 bac 62 bacd 63 bacdefgh 64
bacdefg 65 abcdefijghklmonpqr badcefghijlkmnopqr cdabfehgjilkmnoqpr 66 abcdefhgijklm abcdfeghijklm badcefghjiklm 67
abefcdgjkhilnmo badcfegihkjlmno 68 abdcfeghi bacdefghi 69 abcedfgihkjlmonp abdcefhgijlknmop bacdefghijklmnop 70 abcdegfh
abcdfegh badcefgh 71 abdcefijghklnmo acbdijghefknmlo bacdefjihgklnmo 72 abcdegfhijk badcefgihjk 73 abdecf bacedf 74
bacdefghij cdabegfihj 75 bacd 77 bacd 81 badcefgh cdabfegh 82 bacdefg cdabfeg 83 badcfeghikjl cdabefhgijkl 84
abdcefghijk bacdfehgijk 85 bacedfg 86 abdcefg bacdefg 87 bacdefghi 88 badcef 89 badcfeghikjnolmp cdabefhgijkonmlp 90
bacdfeg 91 bacd 93 abcdefghijklmonp abdcefghilmjknop bacdfehgikjmlnop 94 abcdfeg bacdefg 95 bacd 97 bacdefgihjk 98
abcedfg bacdefg 99 bacdfeg 101 bacde 103 bacd 105 bacedf 111 badcfehgjilkmno cdabfeghklijmno 112 adcbefjihgklmn
cbadfehgjilkmn 113 bacdef 114 bacde 115 badcfeghikjl cdabfegihkjl 116 abcdfeghij badcefhgij 117 badcefhgi 118 abcdegfhi
abdcefghi bacdefghi 119 bacdefghij cdabfehgij 120 dcbahgfei 121 bacdegfhij 122 bacde 123 badcfeghikjmlonqprstu
cdabefhgijknolmpqrtsu 124 cdabefhgijlkmn 125 badcfeghjilkmn 126 bacdefghjik 127 badcefhgjikl 128 bacdefghi 129
bacedfhgijk 131 abdcefghilmjknopqr bacdfehgikjmlnpoqr 132 abcdefghjiklmnop cdabefhgijkmlnop 133 abcdefgihjk 134
abcdfeghijlkmn bacdefghjiklmn 136 abcdegfhijk bacdefghijk 137 bacdefgh 138 abdcefhgij 139 bacdefghjiklmno 141 badcefghi
143 acbd bacd 147 bacdfeg 148 bacedf 149 abefcdgihjkl badcfeghikjl cdabefhgijkl 150 bacdfeg 151 bac 152 bac 153 bac 154
bac 155 bacedf 156 acbde bacde 158 acbd bacd 162 badcegfhjikl 163 abdcefghi 164 bacdfehgij 166 bacedgfhi 174
abefcdgihjkl badcfeghikjl cdabefhgijkl 175 badcegfhikjl 176 abdcefghi 177 badcegfhikjmln 180 badcefhgjik 181 badcefhgjik
182 abdcefghi 187 abefcdgihjklmno badcfeghikjmlno cdabefhgijklmno 188 abefcdgihjkl cdabefhgijkl 189 badcegfhikjl 190
abdcefghi 191 badcegfhikjmlnoqpr 194 abdcefghijkl 195 abcdefhgij badceighfj 196 bacdefgh cdabegfh 200 abcdegfhijkl
badchfgeikjl 201 acbdefgh 202 bacdefghi 203 badcefg 205 bacd 206 bacde 207 badcfeghjik 208 abcdfeghjiklm acbdefghijlkm
209 bacdefhgij 210 badcefgh 212 bacde 213 bacde 214 badcefhgi 215 badcegfhij 216 bacdefghi cdabegfhi 218 abdcefhgi 219
badcegfh 220 bacde 221 badcfeghjilkmn 223 abdcefhgijkl 224 acbdefghjikl 225 bacdefgihjkl 227 badcefghi
"""
